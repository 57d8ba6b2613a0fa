"""Base's probabilities averaged over several translations (Liu et al., arXiv 2407.16997): no reinforced model runs."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxforget.cpu import argmax
from jaxforget.train.losses import kl_divergence
from jaxforget.train.objectives.objective import answers
from jaxforget.train.objectives.whp import GenericTargets
from jaxforget.train.targets import without
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class WhpAverage(GenericTargets):
    """KL divergence from the mean of base's probabilities over N translations, moved back to the original's tokens.

    In each translation the probability of a counterpart's first token moves to the first token of the anchor that it
    replaces, from that anchor's first occurrence on (`jaxforget.corpus.translations`). The batch holds the columns of
    `Translations`. Tokens in `never` are suppressed in base's logits before probability moves back, so a target names
    an anchor only where the block has named it before.

    Attributes:
      translations: N, the translations of a block; the paper has 20. Each costs a forward pass of base.
    """

    translations: int = dataclasses.field(default=8, metadata={"above": 0})

    name: ClassVar[str] = "whp_average"

    @property
    def base_passes(self) -> int:
        return self.translations

    def base_hidden(self, hidden: Callable[[Array], Array], batch: Batch) -> Array:
        """Return base's states of all translations at the original positions, [B, N S, D].

        Position s of translation n is at n S + s. It holds the state of the translated token that s maps to; a position
        that maps to none, which does not train, holds the state of token 0. The passes run one after the other, so that
        only one has its intermediate arrays in memory.

        Args:
          hidden: base's forward pass, tokens [B, S'] to states [B, S', D].
          batch: has the arrays "translations" [B, N, S'] and "position_maps" [B, N, S].
        """
        rows, count, length = batch["position_maps"].shape

        def add(n: Array, states: Array) -> Array:
            place = jnp.maximum(batch["position_maps"][:, n], 0)
            found = jnp.take_along_axis(hidden(batch["translations"][:, n]), place[:, :, None], axis=1)
            return jax.lax.dynamic_update_slice_in_dim(states, found, n * length, axis=1)

        like = jax.eval_shape(hidden, batch["translations"][:, 0])
        return jax.lax.fori_loop(0, count, add, jnp.zeros((rows, count * length, like.shape[-1]), like.dtype))

    def counted(self, batch: Batch) -> Array:
        return jnp.where(batch["position_maps"][:, 0] >= 0, batch["weights"], 0.0) * answers(batch)

    def tile_rows(self, batch: Batch, vocab_size: int) -> dict[str, Array]:
        return {name: batch[name] for name in ("moved_from", "moved_to", "moved_since")}

    def mean(self, tile: Tile, *, moved: bool) -> Array:
        """Return base's mean probabilities of a tile's tokens, fp32 [T, V].

        Args:
          tile: the tokens.
          moved: move the probability of counterparts back to their anchors.
        """
        position = tile.index % tile.length
        source, target = tile.of_row("moved_from"), tile.of_row("moved_to")  # [T, N, K], [T, K]
        active = (position[:, None] >= tile.of_row("moved_since"))[:, None] & (source >= 0)
        source = jnp.maximum(source, 0)

        def add(total: Array, n: Array) -> tuple[Array, Array]:
            logits = without(tile.logits("base", n * tile.length + position), self.never)
            p = jax.nn.softmax(logits, axis=-1)
            mass = jnp.take_along_axis(p, source[:, n], axis=1)  # [T, K]
            return total + p, jnp.where(active[:, n], mass, 0.0)

        shape = (len(tile.index), tile.inputs.heads["base_head"].shape[1])
        total, mass = jax.lax.scan(add, jnp.zeros(shape, jnp.float32), jnp.arange(self.translations))
        if moved:
            mass = jnp.swapaxes(mass, 0, 1)  # [T, N, K]
            token = jnp.arange(shape[0])[:, None]
            total = total.at[token[:, :, None], source].add(-mass)
            total = total.at[token, jnp.maximum(target, 0)].add(jnp.sum(mass, axis=1))
        return jnp.maximum(total, 0.0) / self.translations  # rounding can leave a token a little below 0

    def generic_label(self, tile: Tile) -> Array:
        """Return the tokens that base itself thinks most likely, int32 [T]: no probability moves back."""
        return argmax(self.mean(tile, moved=False))

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        return kl_divergence(logits, self.mean(tile, moved=True))
