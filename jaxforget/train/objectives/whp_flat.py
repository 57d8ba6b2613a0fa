"""Generic labels, and a flat distribution over the text's own terms where one of them begins."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from jaxforget.errors import UserError
from jaxforget.train.losses import log_normalizer
from jaxforget.train.objectives.objective import shifted
from jaxforget.train.objectives.whp import Whp
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array, Batch

SMOOTH = 1e-3  # nats; the square root of the divergence has a finite slope at 0
UNLIKELY = -1e30  # a logit that takes no part in a distribution


@dataclasses.dataclass(frozen=True)
class WhpFlat(Whp):
    """Cross-entropy to the generic labels, and a divergence that pulls the choice among the text's terms to a prior.

    Cross-entropy to a label hardly changes the ratios among improbable tokens: its gradient with respect to a logit is
    p - q. After `whp` on the toy world the right name has a probability of .005 and is still a hundred times likelier
    than others, which multiple choice shows and a few steps of relearning bring back. Where a term of the text begins,
    this method also trains the student's distribution among the terms alone, softmax(z over terms), towards a prior q
    that does not depend on the context:

        loss = cross-entropy(label) + flat * (sqrt(KL(q || softmax(z over terms)) + 0.001) - sqrt(0.001))

    The square root keeps the gradient large while the divergence becomes small. q is nearly uniform: its logits are
    fixed draws of a normal distribution with standard deviation `spread`, because a model that has never seen the
    terms does not give them exactly equal probabilities either.

    Attributes:
      flat: weight of the divergence, at positions whose next token begins a term.
      spread: standard deviation of the prior's logits, nats; 0 for a uniform prior.
      terms: token ids that begin an anchor in at least half of their occurrences in the text (blocks.json).
    """

    flat: float = dataclasses.field(default=40.0, metadata={"above": 0})
    spread: float = 0.2
    terms: tuple[int, ...] = dataclasses.field(default=(), metadata={"option": None})

    name: ClassVar[str] = "whp_flat"

    def describe(self) -> str:
        return f"{super().describe()}; flat distribution over the text's terms, weight {self.flat:g}"

    def prepared(self, summary: Mapping[str, Any]) -> Self:
        if "term_tokens" not in summary:
            raise UserError(
                f"method={self.name}: the blocks were prepared by an older version, which did not note the tokens that "
                "begin an anchor; remove the run's folder blocks, and the same command prepares them again"
            )
        terms = tuple(summary["term_tokens"])
        if len(terms) < 2:
            raise UserError(
                f"method={self.name}: {len(terms)} tokens of the text mostly begin an anchor, and two are needed; "
                "add anchors to the dictionary (anchors.path), or set method=whp"
            )
        found = super().prepared(summary)
        return dataclasses.replace(found, never=tuple(sorted({*found.never, *terms})), terms=terms)

    def tile_rows(self, batch: Batch, vocab_size: int) -> dict[str, Array]:
        return {**super().tile_rows(batch, vocab_size), "next": shifted(batch["tokens"])}

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        loss, gradient = super().tile_loss(logits, tile)
        following = tile.of_token("next")
        divergence, slope = self._divergence(logits)
        begins = jnp.zeros(logits.shape[-1], bool).at[jnp.array(self.terms, jnp.int32)].set(True)[following]
        root = jnp.sqrt(divergence + SMOOTH)
        flat = self.flat * (root - SMOOTH**0.5)
        # The derivative of the root is 1 / (2 root).
        slope = slope * (self.flat / (2 * root))[:, None]
        return loss + jnp.where(begins, flat, 0.0), gradient + jnp.where(begins[:, None], slope, 0.0)

    def _divergence(self, logits: Array) -> tuple[Array, Array]:
        """Return KL(prior || softmax over the terms) and its gradient with respect to `logits`: fp32 [T], [T, V]."""
        drawn = self.spread * np.random.default_rng(0).standard_normal(len(self.terms))
        prior = np.exp(drawn - np.logaddexp.reduce(drawn))
        place = jnp.array(self.terms, jnp.int32)
        q = jnp.zeros(logits.shape[-1], jnp.float32).at[place].set(jnp.asarray(prior, jnp.float32))
        among = jnp.where(q > 0, logits, UNLIKELY)
        total = log_normalizer(among)
        entropy = -float(np.sum(prior * np.log(prior)))
        divergence = total[:, 0] - jnp.sum(q * logits, axis=-1) - entropy
        return jnp.maximum(divergence, 0.0), jnp.exp(among - total) - q
