"""Cross-entropy unlearning: the model's own distribution without the next token becomes the target (2503.01224)."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxforget.train.losses import one_hot, soft_cross_entropy
from jaxforget.train.objectives.objective import Objective
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class Ceu(Objective):
    """Cross-entropy to the softmax of the student's logits without the next token's; a mean over tokens.

    The target, softmax(z) where z[next token] is set to -inf, has no gradient. The first counted token of each row is
    skipped. The forget rows need no frozen model.
    """

    name: ClassVar[str] = "ceu"

    def counted(self, batch: Batch) -> Array:
        counted = super().counted(batch)
        return jnp.where(jnp.cumsum(counted > 0, axis=1) > 1, counted, 0.0)

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        without = jnp.where(one_hot(tile.of_token("next"), logits) > 0, -jnp.inf, logits)
        return soft_cross_entropy(logits, jax.nn.softmax(without, axis=-1))
