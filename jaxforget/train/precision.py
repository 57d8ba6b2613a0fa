"""An fp32 weight as two halves of 16 bits: a bf16 weight for the forward pass, and the bits that rounding removed.

At a learning rate of 1e-6 a bf16 weight never changes, because its spacing near 0.02 is 1e-4. So weights train in fp32.
An fp32 array needs a bf16 copy for the forward pass and an fp32 gradient. In a `Split` the upper half *is* that copy,
and its gradient is bf16. Both halves together are the exact fp32 weight, in the same 4 bytes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

Array = jax.Array


@struct.dataclass
class Split:
    """fp32 weights in two halves.

    Attributes:
      high: tree of bf16 arrays, rounded to nearest (ties away from 0).
      low: tree of int16 arrays with the remaining bits.
    """

    high: Any
    low: Any


def split(params: Any) -> Split:
    """Return a tree of fp32 arrays as a `Split`; `joined` returns the same bits."""

    def bits(x: Array) -> Array:
        return jax.lax.bitcast_convert_type(x, jnp.uint32)

    def upper(x: Array) -> Array:
        # Adding half a unit of the upper half before the truncation rounds to nearest.
        return (bits(x) + jnp.uint32(0x8000)) >> 16

    def high(x: Array) -> Array:
        return jax.lax.bitcast_convert_type(upper(x).astype(jnp.uint16), jnp.bfloat16)

    def low(x: Array) -> Array:
        # The rest is signed, from -0x8000 to 0x7fff, because the upper half may have been rounded up.
        return jax.lax.bitcast_convert_type((bits(x) - (upper(x) << 16)).astype(jnp.uint16), jnp.int16)

    return Split(high=jax.tree.map(high, params), low=jax.tree.map(low, params))


def joined(params: Any) -> Any:
    """Return the fp32 weights of a `Split`; any other tree is returned as it is."""
    if not isinstance(params, Split):
        return params

    def join(high: Array, low: Array) -> Array:
        upper = jax.lax.bitcast_convert_type(high, jnp.uint16).astype(jnp.uint32) << 16
        # The conversion to int32 extends the sign; the unsigned addition then wraps correctly.
        rest = jax.lax.bitcast_convert_type(low.astype(jnp.int32), jnp.uint32)
        return jax.lax.bitcast_convert_type(upper + rest, jnp.float32)

    return jax.tree.map(join, params.high, params.low)


def compute_params(params: Any) -> Any:
    """Return the tree that the forward pass reads: the upper halves of a `Split`, any other tree as it is."""
    return params.high if isinstance(params, Split) else params
