"""An fp32 weight in two halves of 16 bits: what the forward pass reads, and what rounding took from it.

At a learning rate of 1e-6 a bf16 weight never moves: near 0.02 its spacing is 1e-4. So weights train in fp32. Held as
one fp32 array, each needs a bf16 copy for the forward pass and an fp32 gradient. Held as `Split`, the upper half *is*
that copy, its gradient is bf16, and the two halves together are the fp32 weight, every bit of it, in the same 4 bytes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass
class Split:
    """fp32 weights. high: bf16, each rounded to nearest (ties away from 0); low: int16, the remaining bits."""

    high: Any
    low: Any


def split(params: Any) -> Split:
    """Splits a tree of fp32 arrays; `joined` gives the same bits back."""

    def bits(x: Array) -> Array:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)

    def upper(x: Array) -> Array:
        # Half a unit of the upper half, added before the cut, rounds to nearest.
        return (bits(x) + jnp.uint32(0x8000)) >> 16

    def high(x: Array) -> Array:
        return jax.lax.bitcast_convert_type(upper(x).astype(jnp.uint16), jnp.bfloat16)

    def low(x: Array) -> Array:
        # From -0x8000 to 0x7fff: signed, since rounding may have gone up.
        return jax.lax.bitcast_convert_type((bits(x) - (upper(x) << 16)).astype(jnp.uint16), jnp.int16)

    return Split(high=jax.tree.map(high, params), low=jax.tree.map(low, params))


def joined(params: Any) -> Any:
    """The fp32 weights of a `Split`; any other tree as it is."""
    if not isinstance(params, Split):
        return params

    def join(high: Array, low: Array) -> Array:
        upper = jax.lax.bitcast_convert_type(high, jnp.uint16).astype(jnp.uint32) << 16
        # Through int32 for the sign; unsigned addition then wraps as it must.
        rest = jax.lax.bitcast_convert_type(low.astype(jnp.int32), jnp.uint32)
        return jax.lax.bitcast_convert_type(upper + rest, jnp.float32)

    return jax.tree.map(join, params.high, params.low)


def compute_params(params: Any) -> Any:
    """The tree that the forward pass reads: a `Split`'s upper halves; any other tree as it is."""
    return params.high if isinstance(params, Split) else params
