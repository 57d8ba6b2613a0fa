"""Wrappers of any method's gradient that make it resist relearning (objectives/README.md)."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from jaxforget.train.types import Array, Batch, Params

UNRELATED = "unrelated_"  # begins the names of the arrays of unrelated text in a batch
# (params, prepared batch) -> (losses fp32 [2], gradients): over all microbatches.
GradientOf = Callable[[Params, Batch], tuple[Array, Params]]


@dataclasses.dataclass(frozen=True)
class Wrappers:
    """Static options of the wrappers.

    Attributes:
      sam: rho of sharpness-aware minimisation, the distance at which the forget gradient is taken; 0 = off.
      ilu: weight of the invariance penalty on unrelated text; 0 = off.
    """

    sam: float = 0.0
    ilu: float = 0.0

    def passes(self, retains: bool) -> int:
        """Return how often a step runs all models over its rows; `retains` says if it has a retain term."""
        return 2 + retains if self.sam else 1

    def describe(self) -> str:
        """Return the wrappers in words, for the model card; empty where all are off."""
        words = []
        if self.sam:
            words.append(f"sharpness-aware forgetting (SAM, arXiv 2502.05374), rho {self.sam:g}")
        if self.ilu:
            words.append(f"invariance penalty on unrelated text (ILU, arXiv 2506.01339), weight {self.ilu:g}")
        return "; ".join(words)


def sharpness_aware(gradient_of: GradientOf, params: Params, batch: Batch, rho: float, *, retains: bool):
    """Return (losses, gradients) with the forget gradient at params + rho g / |g| (SAM, arXiv 2502.05374).

    g is the forget gradient of the whole batch at `params`, over the weights that train. The retain gradient and both
    losses are those at `params`.

    Args:
      gradient_of: the gradient of the losses of both kinds of rows.
      params: the weights that train.
      batch: the step's batch with each token's share of the loss, coefficients fp32 [B, S].
      rho: distance from `params`.
      retains: True if there are retain rows with a loss.
    """
    forget = _rows_of(batch, retain=False)
    losses, direction = gradient_of(params, forget)
    norm = optax.tree.norm(jax.tree.map(lambda d: d.astype(jnp.float32), direction))
    scale = rho / jnp.maximum(norm, jnp.finfo(jnp.float32).tiny)
    moved = jax.tree.map(lambda p, d: (p + scale * d).astype(p.dtype), params, direction)
    _, gradients = gradient_of(moved, forget)
    if not retains:
        return losses, gradients
    retained, more = gradient_of(params, _rows_of(batch, retain=True))
    return losses + retained, jax.tree.map(jnp.add, gradients, more)


def invariance_penalty(gradient_of: Callable[[Params], Params], params: Params, weight: float) -> tuple[Array, Params]:
    """Return weight * s^2, fp32 [], and its gradient, with s = d/dw loss(w * params) at w = 1.

    The penalty of invariant risk minimisation with a scalar w (ILU, arXiv 2506.01339). With G the gradient and H the
    Hessian of the loss, s = <G, params>, and the penalty's gradient is 2 weight s (G + H params). H params is exact:
    the derivative of the gradient in the direction of the weights.

    Args:
      gradient_of: the gradient of the loss on unrelated text.
      params: the weights that train, all of them.
      weight: factor of the penalty.
    """
    gradient, curvature = jax.jvp(gradient_of, (params,), (params,))
    products = jax.tree.map(lambda g, p: jnp.vdot(g.astype(jnp.float32), p.astype(jnp.float32)), gradient, params)
    slope = sum(jax.tree.leaves(products))
    scale = 2 * weight * slope
    return weight * jnp.square(slope), jax.tree.map(lambda g, h: (scale * (g + h)).astype(g.dtype), gradient, curvature)


def take_unrelated(batch: Batch) -> tuple[Batch, Batch]:
    """Return the batch without its unrelated rows, and these as a batch of their own."""
    unrelated = {name.removeprefix(UNRELATED): batch[name] for name in batch if name.startswith(UNRELATED)}
    return {name: batch[name] for name in batch if not name.startswith(UNRELATED)}, unrelated


def _rows_of(batch: Batch, *, retain: bool) -> Batch:
    """Return a prepared batch in which only the retain rows, or only the others, have a loss."""
    if "retain" not in batch:
        return batch
    share = (batch["retain"] > 0) == retain
    found = {**batch, "coefficients": jnp.where(share[:, None], batch["coefficients"], 0.0)}
    if "row_scale" in batch:
        found["row_scale"] = jnp.where(share, batch["row_scale"], 0.0)
    if "retain_share" in batch:
        found["retain_share"] = jnp.where(share[:, None], batch["retain_share"], 0.0)
    return found
