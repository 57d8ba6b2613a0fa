"""The interface of an objective: the forget loss of one method, and what a step must provide for it.

A method is one subclass of `Objective` and one line in `jaxforget.train.objectives`; a file holds a family of methods.
The step, the plan, the FLOP counts, the advice, the model card and the report ask the objective through this interface;
none of them imports a method or compares its name.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import jax.numpy as jnp

from jaxforget.train.losses import cross_entropy
from jaxforget.train.tiles import Tile
from jaxforget.train.types import Array, Batch, Params


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss of the forget rows of a batch. Its fields are the settings of the method, `objective.FIELD=VALUE`.

    The loss is a mean over the counted tokens of the batch, or over its rows where `per_row` is set. Subclasses
    override what differs from plain next-token training.

    Attributes:
      weight: factor of the whole forget loss.

    Class attributes:
      name: the method's name, as in `method=NAME`.
      per_row: the loss is a function of each row's summed log-probability (`row_loss`), not of its tokens alone. A pass
        over tiles without gradient computes those sums first.
      needs_retain: the method is defined with a retain term only.
      needs_reinforced: the method is defined with a reinforced model, whether its step runs that or not.
      trains: False if the method computes weights without training (`weights`).
      generic_targets: the targets are predictions of a generic text (`generic_label`).
      translations: number of translations of a block that the targets are averaged over; 0 for the single one.
      cacheable: the targets are labels that can be computed beforehand (targets.cache).
      constrained: the weight of the retain loss is a Lagrange multiplier in the state (`next_multiplier`).
      on_states: the loss is on hidden states in the middle of the model (`layer`, `target`), not on logits.
      searched: the option that `jaxforget compare` searches over beside the learning rate, where the run has no retain
        term whose weight it could search.
      alternates: every forget row comes with an alternative answer, batch["alternate"]; it is appended as a row.
    """

    weight: float = 1.0

    name: ClassVar[str] = ""
    per_row: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = False
    needs_reinforced: ClassVar[bool] = False
    trains: ClassVar[bool] = True
    generic_targets: ClassVar[bool] = False
    translations: ClassVar[int] = 0
    cacheable: ClassVar[bool] = False
    constrained: ClassVar[bool] = False
    on_states: ClassVar[bool] = False
    searched: ClassVar[str] = "retain.weight"
    alternates: ClassVar[bool] = False

    @property
    def uses_base(self) -> bool:
        """True if the forget rows need a pass of the frozen base model."""
        return False

    @property
    def uses_reinforced(self) -> bool:
        """True if the forget rows need a pass of the reinforced model."""
        return False

    @property
    def base_input(self) -> str:
        """The entry of the batch that base reads: "tokens", or "translated" with its position_map."""
        return "tokens"

    @property
    def base_passes(self) -> int:
        """Number of forward passes of base over the rows, if it runs."""
        return 1

    def base_hidden(self, hidden: Callable[[Array], Array], batch: Batch) -> Array:
        """Return the hidden states of base that the tiles read, [B, S', D]; `hidden` runs base on tokens [B, S']."""
        return hidden(batch[self.base_input])

    @property
    def never(self) -> tuple[int, ...]:
        """The token ids that no generic target may name."""
        return ()

    @property
    def layer(self) -> int:
        """The number of layers after which the hidden states have the loss, where `on_states` is set."""
        raise NotImplementedError(f"objective {self.name} has no loss on hidden states")

    @property
    def trained_passes(self) -> int:
        """Number of forward and backward passes of the student over the rows, for FLOP counts."""
        return 2 if self.alternates else 1

    def describe(self) -> str:
        """Return the objective in words, for the model card and the report."""
        values = ", ".join(f"{field.name} {getattr(self, field.name):g}" for field in self.settings())
        return f"{self.name} ({values})" if values else self.name

    @classmethod
    def settings(cls) -> tuple[dataclasses.Field, ...]:
        """Return the fields that `objective.FIELD=VALUE` sets."""
        return tuple(field for field in dataclasses.fields(cls) if "option" not in field.metadata)

    def prepared(self, summary: Mapping[str, Any]) -> Self:
        """Return the objective with what only the prepared blocks can tell; `summary` is their blocks.json."""
        return self

    def uncached(self) -> Self:
        """Return the objective without cached labels, where `cacheable` is set: it computes them from frozen models."""
        return self

    def counted(self, batch: Batch) -> Array:
        """Return fp32 [B, S], the weight of each position in the mean; 0 where nothing is trained."""
        return predicting(batch)

    def tile_rows(self, batch: Batch, vocab_size: int) -> dict[str, Array]:
        """Return the arrays that `tile_loss` reads by row or token, first axis B."""
        return {"next": batch["next"]}

    def tile_loss(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        """Return the loss of a tile's tokens, fp32 [T], and its gradient with respect to `logits`, fp32 [T, V].

        `logits` are the student's, fp32 [T, V]. Where `per_row` is set, the loss is the negative log-probability of the
        next token, which the step weighs.
        """
        return cross_entropy(logits, tile.of_token("next"))

    def row_loss(self, logp: Array, base_logp: Array | None, count: Array) -> Array:
        """Return the loss fp32 [B] of each row, where `per_row` is set. It is differentiated with respect to `logp`.

        Args:
          logp: fp32 [B], the student's summed log-probability of a row's counted tokens; [2 B] with `alternates`, the
            alternative answers behind the forget rows.
          base_logp: the same of base; None where `uses_base` is False.
          count: fp32, the number of counted tokens, in the shape of `logp`.
        """
        raise NotImplementedError(f"objective {self.name} has no loss by row")

    def generic_label(self, tile: Tile) -> Array:
        """Return the generic labels of a tile's tokens, int32 [T], where `generic_targets` is set."""
        raise NotImplementedError(f"objective {self.name} has no generic labels")

    def target(self, width: int) -> Array:
        """Return the target of the hidden states, fp32 [D] with D = `width`, where `on_states` is set."""
        raise NotImplementedError(f"objective {self.name} has no loss on hidden states")

    def trained(self, gradients: Params) -> Params:
        """Return `gradients` with zeros where a weight does not train; the same tree, shapes and dtypes."""
        return gradients

    def next_multiplier(self, multiplier: Array, retain_nll: Array) -> Array:
        """Return the multiplier after a step, fp32 [], where `constrained` is set.

        Args:
          multiplier: fp32 [], the one of the step.
          retain_nll: fp32 [], the mean negative log-probability of the retain tokens, nats.
        """
        raise NotImplementedError(f"objective {self.name} has no multiplier")

    def weights(self, base: Params, reinforced: Params) -> Params:
        """Return the unlearned weights, fp32, of two trees of float arrays, where `trains` is False."""
        raise NotImplementedError(f"objective {self.name} trains its weights")


def predicting(batch: Batch) -> Array:
    """Return fp32 [B, S], 1 where position i and its next token are used and the next token counts.

    batch["weights"] fp32 [B, S] marks used tokens, batch["answer"] (optional) fp32 [B, S] tokens that count.
    """
    return batch["weights"] * shifted(batch["weights"]) * answers(batch)


def answers(batch: Batch) -> Array:
    """Return fp32 [B, S] or a scalar 1: whether the token after each position is part of an answer."""
    return shifted(batch["answer"]) if "answer" in batch else jnp.float32(1.0)


def real_answers(batch: Batch) -> Array:
    """Return fp32 [B, S] or a scalar 1: whether each token is itself part of an answer."""
    return batch["answer"] if "answer" in batch else jnp.float32(1.0)


def shifted(array: Array) -> Array:
    """Return [B, S] moved one position to the left: what stands after each position; 0 after the last."""
    return jnp.pad(array[:, 1:], ((0, 0), (0, 1)))
