"""Gradient ascent weighed by the token's own probability: WGA (arXiv 2502.19301) and SatImp (arXiv 2505.11953)."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from jaxforget.train.losses import cross_entropy
from jaxforget.train.objectives.objective import Objective
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array


def _weighed(logits: Array, label: Array, weight_of) -> tuple[Array, Array]:
    """Return weight * log p(label) and its gradient, where weight = weight_of(p(label)) has no gradient."""
    loss, gradient = cross_entropy(logits, label)
    weight = weight_of(jnp.exp(-loss))
    return -weight * loss, -weight[:, None] * gradient


@dataclasses.dataclass(frozen=True)
class Wga(Objective):
    """p^beta log p(next token), the factor p^beta without gradient; a mean over tokens.

    The forget rows need no frozen model.

    Attributes:
      beta: exponent; 0 is gradient ascent.
    """

    beta: float = 1.0

    name: ClassVar[str] = "wga"
    searched: ClassVar[str] = "objective.beta"

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        return _weighed(logits, tile.of_token("next"), lambda p: p**self.beta)


@dataclasses.dataclass(frozen=True)
class SatImp(Objective):
    """p^beta1 (1 - p)^beta2 log p(next token), both factors without gradient; a mean over tokens.

    The forget rows need no frozen model.

    Attributes:
      beta1: exponent of saturation.
      beta2: exponent of importance.
    """

    weight: float = 0.1
    beta1: float = 5.0
    beta2: float = 1.0

    name: ClassVar[str] = "satimp"
    searched: ClassVar[str] = "objective.weight"

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        def weight_of(p: Array) -> Array:
            # A probability that rounds to just above 1 would have no real power.
            return p**self.beta1 * jnp.maximum(1 - p, 0.0) ** self.beta2

        return _weighed(logits, tile.of_token("next"), weight_of)
