"""The retain term: the loss of the rows of a retained text, added to any method's forget loss."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxforget.train.losses import cross_entropy, kl_divergence
from jaxforget.train.objectives.objective import answers, predicting, real_answers
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class Retain:
    """A mean over the counted tokens of the retain rows.

    Attributes:
      weight: of this mean beside the forget loss.
      kind: "kl", KL(base || student); "nll", cross-entropy of the next token; "states", mean square distance of hidden
        states from base's, for an objective on states.
    """

    weight: float
    kind: str = "kl"

    @property
    def uses_base(self) -> bool:
        """True if the retain rows need a pass of the frozen base model."""
        return self.kind != "nll"

    def describe(self) -> str:
        """Return the term in words, for the model card and the report."""
        words = {"kl": "KL from base", "nll": "cross-entropy", "states": "distance of states from base's"}
        return f"{words[self.kind]}, weight {self.weight:g}"

    def counted(self, batch: Batch) -> Array:
        """Return fp32 [B, S], the weight of each position in the mean."""
        if self.kind == "nll":
            return predicting(batch)
        if self.kind == "states":
            return batch["weights"] * real_answers(batch)
        used = (
            jnp.where(batch["position_map"] >= 0, batch["weights"], 0.0)
            if "position_map" in batch
            else batch["weights"]
        )
        return used * answers(batch)

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        """Return the loss of a tile's tokens, fp32 [T], and its gradient with respect to `logits`, fp32 [T, V]."""
        if self.kind == "nll":
            return cross_entropy(logits, tile.of_token("next"))
        # A retain row is not translated, so base's positions are its own, and nothing is suppressed there.
        position = tile.of_token("position_map") if "position_map" in tile.inputs else None
        return kl_divergence(logits, jax.nn.softmax(tile.logits("base", position), axis=-1))
