"""What XLA's CPU compiler computes faster when it is told how; every other backend gets the plain thing."""

import math

import jax
import jax.numpy as jnp

Array = jax.Array
GROUP = 128  # words whose highest logit is found first


def turned(x: Array) -> Array:
    """[T, D] -> [D, T], on a CPU as an array of its own.

    A product with a transposed factor goes to a slower library there (117 against 147 GFLOP/s on two cores), or its
    transposition is made one with what computes the factor, at a third of the speed of the two apart.
    """
    return jax.lax.platform_dependent(x, cpu=lambda x: jax.lax.optimization_barrier(x.T), default=lambda x: x.T)


def likeliest(logits: Array) -> Array:
    """int32 [T]: the first of each row's highest logits, float [T, V]; of a row with NaN, any word.

    On a CPU group by group: a maximum that carries its place along is not vectorised there (31 ms of a tile of 512 by
    32,000 on two cores, against 3).
    """

    def by_groups(logits: Array) -> Array:
        width = math.gcd(logits.shape[1], GROUP)
        groups = jax.lax.optimization_barrier(logits).reshape(logits.shape[0], -1, width)
        group = jnp.argmax(jax.lax.optimization_barrier(jnp.max(groups, axis=-1)), axis=-1)
        within = jnp.take_along_axis(groups, group[:, None, None], axis=1)[:, 0]
        return group * width + jnp.argmax(jax.lax.optimization_barrier(within), axis=-1)

    def plain(logits: Array) -> Array:
        return jnp.argmax(logits, axis=-1)

    return jax.lax.platform_dependent(logits, cpu=by_groups, default=plain).astype(jnp.int32)
