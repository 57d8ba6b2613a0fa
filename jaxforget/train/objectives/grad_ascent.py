"""Gradient ascent on the forget rows, alone (`grad_ascent`) or beside a retain term (`grad_diff`)."""

import dataclasses
from typing import ClassVar

from jaxforget.train.losses import cross_entropy
from jaxforget.train.objectives.objective import Objective
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array


@dataclasses.dataclass(frozen=True)
class GradAscent(Objective):
    """The mean over tokens of + log p(next token).

    The forget rows need no frozen model.
    """

    name: ClassVar[str] = "grad_ascent"

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        loss, gradient = cross_entropy(logits, tile.of_token("next"))
        return -loss, -gradient


@dataclasses.dataclass(frozen=True)
class GradDiff(GradAscent):
    """Gradient ascent with a retain term, which it needs (Liu et al., 2203.12817)."""

    name: ClassVar[str] = "grad_diff"
    needs_retain: ClassVar[bool] = True
