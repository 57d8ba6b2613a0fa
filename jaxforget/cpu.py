"""What XLA's CPU compiler computes faster when it is told how; every other backend gets the plain thing."""

import jax
import jax.numpy as jnp

Array = jax.Array
GROUP = 128  # words whose highest logit is found first


def transposed(x: Array) -> Array:
    """[T, D] -> [D, T], on a CPU as an array of its own.

    A product with a transposed factor goes to a slower library there (117 against 147 GFLOP/s on two cores), or its
    transposition is made one with what computes the factor, at a third of the speed of the two apart.
    """
    return jax.lax.platform_dependent(x, cpu=_transposed_apart, default=lambda x: x.T)


def product_over_rows(x: Array, y: Array) -> Array:
    """x [T, M] and y [T, N] summed over T: [M, N]. A CPU turns the narrower one round, which is less to move."""

    def narrower_transposed(x: Array, y: Array) -> Array:
        if x.shape[1] <= y.shape[1]:
            return jnp.dot(_transposed_apart(x), y)
        return _transposed_apart(jnp.dot(_transposed_apart(y), x))

    return jax.lax.platform_dependent(x, y, cpu=narrower_transposed, default=lambda x, y: jnp.dot(x.T, y))


def _transposed_apart(x: Array) -> Array:
    return jax.lax.optimization_barrier(x.T)


def argmax(logits: Array) -> Array:
    """int32 [T]: the first of each row's highest logits, float [T, V]; of a row with NaN, any word.

    On a CPU group by group, where the words are whole groups: a maximum that carries its place along is not vectorised
    there (31 ms of a tile of 512 by 32,000 on two cores, against 3).
    """

    def plain(logits: Array) -> Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def by_groups(logits: Array) -> Array:
        groups = jax.lax.optimization_barrier(logits).reshape(logits.shape[0], -1, GROUP)
        group = jnp.argmax(jax.lax.optimization_barrier(jnp.max(groups, axis=-1)), axis=-1)
        within = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
        place = jnp.argmax(jax.lax.optimization_barrier(within), axis=-1)
        return (group * GROUP + place).astype(jnp.int32)

    if logits.shape[1] % GROUP:
        return plain(logits)
    return jax.lax.platform_dependent(logits, cpu=by_groups, default=plain)
