"""Rotary position embeddings: frequencies, and the rotation of queries and keys.

Letters in shapes: B rows, S positions, N heads, E head width, R rotated pairs of numbers in a head.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxforget.models.config import ModelConfig, RopeScaling

Array = jax.Array


def rope_frequencies(width: int, theta: float, scaling: RopeScaling | None) -> np.ndarray:
    """Return rotary angular frequencies, fp32 [R]; `scaling` stretches long wavelengths.

    They are computed on the host, the power in fp64 and everything else in fp32 in transformers' order. The fp32 power
    functions of devices and of some processors are off by several units in the last place, and far positions multiply
    that. So every host has the same numbers: transformers' to a unit or two, and to the bit where its own power
    function is exact.

    Args:
      width: numbers of a head that are rotated.
      theta: base.
      scaling: of the frequencies; None: none.
    """
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    frequencies = np.float32(1) / (theta ** exponents.astype(np.float64)).astype(np.float32)
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # llama3: keep high frequencies, divide low ones, blend in between by how many turns fit the old context.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return frequencies * (blend + (1 - blend) / scaling.factor)


def layer_frequencies(config: ModelConfig) -> tuple[list[np.ndarray], list[int]]:
    """Return the distinct frequencies of a model's layers, and for every layer the index of its own.

    Layers that do not rotate have frequencies of 0: they rotate by an angle of 0, which is exact.
    """
    width = config.rotary_width or config.head_dim
    usual = rope_frequencies(width, config.rope_theta, config.rope_scaling)
    kinds = {"usual": usual, "none": np.zeros_like(usual)}
    if config.window_rope is not None:
        kinds["window"] = rope_frequencies(width, *config.window_rope)
    depth = config.num_hidden_layers
    windows, rotating = config.windows or (None,) * depth, config.rotating or (True,) * depth
    names = [
        "none" if not rotates else "window" if window is not None and "window" in kinds else "usual"
        for window, rotates in zip(windows, rotating, strict=True)
    ]
    found = list(dict.fromkeys(names))
    return [kinds[name] for name in found], [found.index(name) for name in names]


def rotate(x: Array, cos: Array, sin: Array, scale: float) -> Array:
    """Rotate x [B, S, N, E] by its positions.

    Args:
      x: heads; the numbers that rotate come first, as two halves and not as interleaved pairs.
      cos: fp32 [B, S, 1, R], with `scale` in it.
      sin: as cos.
      scale: multiplies the numbers of a head that do not rotate.
    """
    turned = 2 * cos.shape[-1]
    first, second = (half.astype(jnp.float32) for half in jnp.split(x[..., :turned], 2, axis=-1))
    y = [first * cos - second * sin, second * cos + first * sin]
    if turned < x.shape[-1]:
        y.append(x[..., turned:].astype(jnp.float32) * scale)
    return jnp.concatenate(y, axis=-1).astype(x.dtype)


@struct.dataclass
class Rope:
    """Cosines and sines to rotate by, fp32 [B, S, 1, R] each.

    The query's have the softmax's scale in them: the product is in fp32, and rounded once, with the rotated query.
    Scaling a query in bf16 would round every number once more.
    """

    query: tuple[Array, Array]
    key: tuple[Array, Array]
    scale: float = struct.field(pytree_node=False)

    @classmethod
    def from_angles(cls, angles: Array, scale: float) -> "Rope":
        """Return the rotation by `angles` [B, S, 1, R], with scores multiplied by `scale`."""
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        return cls(query=(cos * scale, sin * scale), key=(cos, sin), scale=scale)

    def __call__(self, query: Array, key: Array) -> tuple[Array, Array]:
        """Return query [B, S, H, E], rotated and scaled, and key [B, S, K, E], rotated."""
        return rotate(query, *self.query, self.scale), rotate(key, *self.key, 1.0)
