"""Self-distillation with the next token's logit lowered: UNDIAL (arXiv 2402.10052)."""

import dataclasses
from typing import ClassVar

import jax

from jaxforget.train.losses import one_hot, soft_cross_entropy
from jaxforget.train.objectives.objective import Objective
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array


@dataclasses.dataclass(frozen=True)
class Undial(Objective):
    """Cross-entropy to softmax(v_base - beta onehot(next token)), a mean over tokens.

    The forget rows need base and no reinforced model.

    Attributes:
      beta: amount by which the logit of the next token is lowered, nats.
    """

    beta: float = 10.0

    name: ClassVar[str] = "undial"
    searched: ClassVar[str] = "objective.beta"

    @property
    def uses_base(self) -> bool:
        return True

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        lowered = tile.logits("base") - self.beta * one_hot(tile.of_token("next"), logits)
        return soft_cross_entropy(logits, jax.nn.softmax(lowered, axis=-1))
