"""Attacks on the weights: rounded to few bits, and drawn back towards base.

Rounding can undo an update that is smaller than its step (Zhang et al., 2410.16454); on the way back to base the
knowledge returns at some point, and how early says how thin the forgetting is.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxforget.models.weights import dequantise, quantise
from jaxforget.train.types import Array, Params

# As the common tools have it: the layers' matrices; embedding, head and norms keep their precision.
QUANTISED = re.compile(r"layers/\w+/kernel")
QUANTISED_SAID = "the layers' matrices rounded to nearest, symmetric, one step an output channel"


def rounded(weights: Array, bits: int) -> Array:
    """`weights` [..., inputs, outputs] as whole multiples of a step; the dtype is kept.

    An output's step is its largest weight / (2^(bits - 1) - 1); a channel of zeros stays so.
    """
    return dequantise(quantise(weights, 2 ** (bits - 1) - 1)).astype(weights.dtype)


def quantised(params: Params, bits: int) -> Params:
    """`params` as a model reads them that stores the layers' matrices in `bits` bits; laid out as they were."""

    def round_all(params: Params) -> Params:
        flat = traverse_util.flatten_dict(params, sep="/")
        done = {name: rounded(leaf, bits) if QUANTISED.fullmatch(name) else leaf for name, leaf in flat.items()}
        return traverse_util.unflatten_dict(done, sep="/")

    return jax.jit(round_all, out_shardings=_shardings(params))(params)


def interpolated(base: Params, params: Params, share: float) -> Params:
    """base + share · (params - base), in fp32, then in the dtype of `params` and laid out as they are."""

    def mix(base: Params, params: Params) -> Params:
        def leaf(b: Array, p: Array) -> Array:
            b, exact = b.astype(jnp.float32), p.astype(jnp.float32)
            return (b + jnp.float32(share) * (exact - b)).astype(p.dtype)

        return jax.tree.map(leaf, base, params)

    return jax.jit(mix, out_shardings=_shardings(params))(base, params)


def _shardings(params: Params) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, params)
