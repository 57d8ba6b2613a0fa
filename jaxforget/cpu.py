"""What XLA's CPU compiler computes faster when it is told how; every other backend gets the plain thing."""

import jax
import jax.numpy as jnp

Array = jax.Array
GROUP = 128  # words whose highest logit is found first


def turned(x: Array) -> Array:
    """[T, D] -> [D, T], on a CPU as an array of its own.

    A product with a transposed factor goes to a slower library there (117 against 147 GFLOP/s on two cores), or its
    transposition is made one with what computes the factor, at a third of the speed of the two apart.
    """
    return jax.lax.platform_dependent(x, cpu=_turned_apart, default=lambda x: x.T)


def product_over_rows(x: Array, y: Array) -> Array:
    """x [T, M] and y [T, N] summed over T: [M, N]. A CPU turns the narrower one round, which is less to move."""

    def narrower_turned(x: Array, y: Array) -> Array:
        if x.shape[1] <= y.shape[1]:
            return jnp.dot(_turned_apart(x), y)
        return _turned_apart(jnp.dot(_turned_apart(y), x))

    return jax.lax.platform_dependent(x, y, cpu=narrower_turned, default=lambda x, y: jnp.dot(x.T, y))


def _turned_apart(x: Array) -> Array:
    return jax.lax.optimization_barrier(x.T)


def likeliest(logits: Array) -> Array:
    """int32 [T]: the first of each row's highest logits, float [T, V]; of a row with NaN, any word.

    On a CPU group by group: a maximum that carries its place along is not vectorised there (31 ms of a tile of 512 by
    32,000 on two cores, against 3).
    """

    def by_groups(logits: Array) -> Array:
        rows, words = logits.shape
        if words < GROUP:
            return jnp.argmax(logits, axis=-1)
        logits = jax.lax.optimization_barrier(logits)
        # The last group reaches back into the one before it: a vocabulary need not be a multiple of its width.
        starts = jnp.minimum(jnp.arange(-(-words // GROUP)) * GROUP, words - GROUP)
        whole = jnp.max(logits[:, : words // GROUP * GROUP].reshape(rows, -1, GROUP), axis=-1)
        highest = jnp.concatenate([whole, jnp.max(logits[:, -GROUP:], axis=-1, keepdims=True)], axis=-1)
        group = jnp.argmax(jax.lax.optimization_barrier(highest[:, : len(starts)]), axis=-1)
        start = starts[group]
        within = jax.vmap(lambda row, at: jax.lax.dynamic_slice_in_dim(row, at, GROUP))(logits, start)
        return start + jnp.argmax(jax.lax.optimization_barrier(within), axis=-1)

    def plain(logits: Array) -> Array:
        return jnp.argmax(logits, axis=-1)

    return jax.lax.platform_dependent(
        logits, cpu=lambda x: by_groups(x).astype(jnp.int32), default=lambda x: plain(x).astype(jnp.int32)
    )
