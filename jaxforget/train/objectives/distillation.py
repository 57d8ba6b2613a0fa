"""Distillation from the frozen model: the objective of the stage undo."""

import dataclasses
from typing import ClassVar

import jax

from jaxforget.train.losses import kl_divergence
from jaxforget.train.objectives.objective import Objective, answers
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class Distillation(Objective):
    """The mean KL(frozen base || student) over the tokens of a text, those of answers where the text has questions."""

    name: ClassVar[str] = "distillation"

    @property
    def uses_base(self) -> bool:
        """True: the frozen model gives the targets."""
        return True

    def counted(self, batch: Batch) -> Array:
        """Return fp32 [B, S], 1 where a position is used and what follows it counts."""
        return batch["weights"] * answers(batch)

    def tile_rows(self, batch: Batch, vocab_size: int) -> dict[str, Array]:
        """Return nothing: the targets come from the frozen model's states."""
        return {}

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        """Return the loss fp32 [T] of a tile's tokens and its gradient with respect to `logits`, fp32 [T, V]."""
        return kl_divergence(logits, jax.nn.softmax(tile.logits("base"), axis=-1))
