"""Primal-dual unlearning: flat logits on the forget rows, subject to a bound on the retain loss (arXiv 2506.05314)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from jaxforget.train.losses import one_hot
from jaxforget.train.objectives.objective import Objective
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array


@dataclasses.dataclass(frozen=True)
class Pdu(Objective):
    """(max v - mean v)^2, a mean over forget tokens, subject to: mean retain nll <= epsilon.

    The weight of the retain loss is a Lagrange multiplier, part of the state: after each step it becomes
    max(0, multiplier + dual_step (retain nll - epsilon)). It starts at 0. retain.weight must be set, and has no
    other effect than to switch the retain rows on. The forget rows need no frozen model.

    Attributes:
      dual_step: step size of the multiplier.
      epsilon: bound on the retain nll, nats.
    """

    dual_step: float = 1.0
    epsilon: float = 0.5

    name: ClassVar[str] = "pdu"
    searched: ClassVar[str] = "objective.epsilon"
    needs_retain: ClassVar[bool] = True
    constrained: ClassVar[bool] = True

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        distance = jnp.max(logits, axis=-1) - jnp.mean(logits, axis=-1)  # [T]
        gradient = one_hot(jnp.argmax(logits, axis=-1), logits) - 1 / logits.shape[-1]
        return jnp.square(distance), 2 * distance[:, None] * gradient

    def next_multiplier(self, multiplier: Array, retain_nll: Array) -> Array:
        """Return the multiplier after a step, fp32 []."""
        return jnp.maximum(0.0, multiplier + self.dual_step * (retain_nll - self.epsilon))
