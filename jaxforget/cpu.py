"""Help for CPUs: operations in a form that suits XLA's CPU compiler, and memory that is kept between steps."""

import contextlib
import ctypes
import os

import jax
import jax.numpy as jnp

Array = jax.Array
GROUP = 128  # entries of the vocabulary in a group of `argmax`
# Parameters of mallopt and their values in bytes, as malloc.h names them; the largest value is that of a C int.
_MALLOC = {"M_TRIM_THRESHOLD": (-1, 2**31 - 1), "M_MMAP_THRESHOLD": (-3, 2**30)}


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, up to 2 GiB in pieces of less than 1 GiB.

    A compiled program on a CPU allocates its intermediate values in one piece and frees them after each call. Memory
    from the system is zeroed page by page at its first use, which took a sixth of the demo's training time. The setting
    is the C library's (GNU's alone has it). It stays as it is where the user set MALLOC_* or GLIBC_TUNABLES.
    """
    if "GLIBC_TUNABLES" in os.environ or any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError, TypeError):
        set_option = ctypes.CDLL(None).mallopt
        for parameter, value in _MALLOC.values():
            set_option(parameter, value)


def transposed(x: Array) -> Array:
    """Transpose x: [T, D] -> [D, T]; on a CPU into an array of its own.

    A CPU computes a product with a transposed factor by a slower library (117 instead of 147 GFLOP/s on two cores), or
    fuses the transposition with the computation of the factor, at a third of the speed of the two operations apart.
    """
    return jax.lax.platform_dependent(x, cpu=_transposed_apart, default=lambda x: x.T)


def product_over_rows(x: Array, y: Array) -> Array:
    """Return the products of x [T, M] and y [T, N] summed over T: [M, N]. A CPU transposes the narrower factor."""

    def narrower_transposed(x: Array, y: Array) -> Array:
        if x.shape[1] <= y.shape[1]:
            return jnp.dot(_transposed_apart(x), y)
        return _transposed_apart(jnp.dot(_transposed_apart(y), x))

    return jax.lax.platform_dependent(x, y, cpu=narrower_transposed, default=lambda x, y: jnp.dot(x.T, y))


def _transposed_apart(x: Array) -> Array:
    """Transpose x into an array of its own, which the compiler cannot fuse with what uses it."""
    return jax.lax.optimization_barrier(x.T)


def argmax(logits: Array) -> Array:
    """Return the index of the first highest logit of each row: [T, V] -> int32 [T]; any index for a row with NaN.

    On a CPU the maximum of each group of `GROUP` entries comes first, if V is a multiple of it. A CPU does not
    vectorise a maximum that carries its index (31 ms instead of 3 for a tile of 512 by 32,000 on two cores).
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
