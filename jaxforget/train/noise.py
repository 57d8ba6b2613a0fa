"""Noise on trained weights, the first half of UNDO (arXiv 2506.06278, section 4)."""

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp


def perturb(params: Any, alpha: float, beta: float, key: jax.Array) -> Any:
    """Return (1 - alpha) * params + alpha * beta * noise; donate `params` where this is compiled.

    A matrix gets uniform noise within +-sqrt(6 / (inputs + outputs)), Xavier's initialisation. A vector (a scale of a
    norm, a bias) only shrinks. The noise of a weight depends on its name, its shape and `key`, not on its sharding.

    Args:
      params: tree of float arrays; those under "layers" are stacked, with a leading axis that counts layers.
      alpha: share of the weights that noise replaces, 0 to 1.
      beta: factor of the noise.
      key: of `jax.random`.
    """

    def changed(path: Any, leaf: jax.Array) -> jax.Array:
        name = "/".join(str(part.key) for part in path)
        kept = (1 - alpha) * leaf
        if leaf.ndim - name.startswith("layers/") < 2:
            return kept
        bound = math.sqrt(6 / (leaf.shape[-2] + leaf.shape[-1]))
        own = jax.random.fold_in(key, zlib.crc32(name.encode()))
        return kept + alpha * beta * jax.random.uniform(own, leaf.shape, jnp.float32, -bound, bound).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(changed, params)
