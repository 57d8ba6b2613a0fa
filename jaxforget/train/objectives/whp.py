"""Generic targets of WHP (arXiv 2310.02238, section 2.3, equation 1): labels (`whp`), distributions (`whp_soft`)."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from jaxforget.cpu import argmax
from jaxforget.train.losses import cross_entropy, kl_divergence
from jaxforget.train.objectives.objective import Objective, answers
from jaxforget.train.targets import generic_logits, suppress, suppression_table, without
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class GenericTargets(Objective):
    """Abstract base of the objectives whose targets are base's predictions on translated tokens.

    Attributes:
      suppress: "seen" or "all" (targets.suppress). "all" sets `never` to the first tokens of all anchors, because a
        base that knows the text by heart names them in the translated context too.
      never: token ids that no target may name; set by `prepared`.
    """

    suppress: str = dataclasses.field(default="seen", metadata={"option": "targets.suppress"})
    never: tuple[int, ...] = dataclasses.field(default=(), metadata={"option": None})

    generic_targets: ClassVar[bool] = True

    @property
    def uses_base(self) -> bool:
        return True

    @property
    def base_input(self) -> str:
        return "translated"

    def prepared(self, summary: Mapping[str, Any]) -> Self:
        if self.suppress != "all":
            return self
        return dataclasses.replace(self, never=tuple(summary["anchor_first_tokens"]))


@dataclasses.dataclass(frozen=True)
class EquationOne(GenericTargets):
    """Targets by equation 1, v_generic: base on the translated tokens, reinforced on the original ones.

    Tokens in `never` are suppressed in v_generic at every position.

    Attributes:
      alpha: strength of equation 1 (targets.alpha).
    """

    alpha: float = dataclasses.field(default=5.0, metadata={"option": "targets.alpha"})

    needs_reinforced: ClassVar[bool] = True

    @property
    def uses_reinforced(self) -> bool:
        return True

    def counted(self, batch: Batch) -> Array:
        return jnp.where(batch["position_map"] >= 0, batch["weights"], 0.0) * answers(batch)

    def tile_rows(self, batch: Batch, vocab_size: int) -> dict[str, Array]:
        table = suppression_table(batch["suppress_ids"], batch["suppress_from"], vocab_size)
        return {"suppression": table}

    def generic(self, tile: Tile) -> Array:
        """Return v_generic of a tile's tokens, fp32 [T, V]."""
        position = tile.of_token("position_map")
        v_base = suppress(tile.logits("base", position), tile.of_row("suppression"), position)
        return without(generic_logits(v_base, tile.logits("reinforced"), self.alpha), self.never)

    def generic_label(self, tile: Tile) -> Array:
        """Return the generic labels of a tile's tokens, the argmax of v_generic, int32 [T]."""
        return argmax(self.generic(tile))


@dataclasses.dataclass(frozen=True)
class Whp(EquationOne):
    """Cross-entropy to the generic labels, the argmax of equation 1: the paper's method.

    Attributes:
      cached: the labels were computed beforehand, batch["labels"] int32 [B, S], so that no frozen model runs
        (targets.cache).
    """

    cached: bool = dataclasses.field(default=False, metadata={"option": "targets.cache"})

    name: ClassVar[str] = "whp"
    cacheable: ClassVar[bool] = True

    @property
    def uses_base(self) -> bool:
        return not self.cached

    @property
    def uses_reinforced(self) -> bool:
        return not self.cached

    def describe(self) -> str:
        return f"argmax of equation 1, alpha {self.alpha:g}"

    def tile_rows(self, batch: Batch, vocab_size: int) -> dict[str, Array]:
        return {"labels": batch["labels"]} if self.cached else super().tile_rows(batch, vocab_size)

    def uncached(self) -> Self:
        return dataclasses.replace(self, cached=False)

    def label(self, tile: Tile) -> Array:
        """Return the generic labels of a tile's tokens, int32 [T]."""
        return tile.of_token("labels") if self.cached else self.generic_label(tile)

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        return cross_entropy(logits, self.label(tile))


@dataclasses.dataclass(frozen=True)
class WhpSoft(EquationOne):
    """KL divergence from the softmax of equation 1."""

    name: ClassVar[str] = "whp_soft"

    def describe(self) -> str:
        return f"softmax of equation 1, alpha {self.alpha:g}"

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        return kl_divergence(logits, jax.nn.softmax(self.generic(tile), axis=-1))
