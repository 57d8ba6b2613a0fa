"""Options of the stages that train."""

import dataclasses
from typing import ClassVar

from jaxforget.config.option import ADAPTED, FORGET, MOST_ROWS, OWN, layout, place, result


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """A training stage: steps, batch and AdamW."""

    epochs: float = result(1.0, OWN, "passes over the blocks where max_steps is null", above=0, most=1e6)
    max_steps: int | None = result(None, OWN, "number of steps; null takes epochs", above=0, essential=True)
    batch: int = result(
        128, OWN, "blocks in a step, over all devices and microbatches", above=0, most=MOST_ROWS, essential=True
    )
    accumulate: int = layout(1, OWN, "microbatches that the batch of a step is split into", above=0, most=MOST_ROWS)
    learning_rate: float = result(
        1e-6, OWN, "peak learning rate; decays linearly to 0", above=0, most=1, essential=True
    )
    warmup_steps: int = result(0, OWN, "steps of linear warm-up from 0", least=0)
    b1: float = result(0.9, OWN, "AdamW's decay of the first moment", least=0, below=1)
    b2: float = result(0.98, OWN, "AdamW's decay of the second moment", least=0, below=1)
    eps: float = result(1e-8, OWN, "AdamW's term against division by 0", above=0)
    weight_decay: float = result(0.0, OWN, "AdamW's weight decay, multiplied by the learning rate", least=0)
    clip_norm: float | None = result(
        None, OWN, "global gradient norm that a step is clipped to; null does not clip", above=0
    )
    moment_dtype: str = result("float32", OWN, "dtype of AdamW's moments", ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class ReinforceOptions(TrainOptions):
    """Training the base model further on the text."""

    weights: str = result(
        "full",
        ADAPTED,
        "what trains: every parameter (full), a LoRA adapter (lora), or every parameter, held afterwards as int8 "
        "differences from base (int8-delta)",
        ("full", "lora", "int8-delta"),
    )

    epochs: float = result(3.0, OWN, "passes over the blocks where max_steps is null", above=0, most=1e6)
    learning_rate: float = result(
        3e-6, OWN, "peak learning rate; decays linearly to 0", above=0, most=1, essential=True
    )


@dataclasses.dataclass(frozen=True)
class ForgetOptions(TrainOptions):
    """Unlearning: training the student from the base model."""

    weights: str = result(
        "full", OWN, "what trains: every parameter (full) or a LoRA adapter over base (lora)", ("full", "lora")
    )

    epochs: float = result(2.0, OWN, "passes over the blocks where max_steps is null", above=0, most=1e6)
    select: str = result(
        "last",
        OWN,
        "which checkpoint becomes the result: the last, or the best by a measure",
        ("last", "familiarity", "retained", "perplexity"),
    )
    sam: float = result(
        0.0,
        OWN,
        "for any method that trains: distance in weights, along the forget gradient, at which that gradient is taken; "
        "a step costs twice as much, with a retain term three times; 0 = off (published: 0.01)",
        least=0,
    )


@dataclasses.dataclass(frozen=True)
class UndoOptions(TrainOptions):
    """Noise on the unlearned weights, and distillation of the unlearned model on retained text (UNDO, 2506.06278)."""

    alpha: float = result(
        0.0,
        OWN,
        "share of each weight that noise replaces, for any method; 0 = no stage undo (published: 0.1 to 0.7)",
        least=0,
        most=1,
    )
    beta: float = result(0.1, OWN, "factor of the noise, whose bounds are those of Xavier's initialisation", least=0)
    learning_rate: float = result(
        1e-5, OWN, "peak learning rate; decays linearly to 0", above=0, most=1, essential=True
    )

    weights: ClassVar[str] = "full"  # the noise is on every weight, so every weight trains


@dataclasses.dataclass(frozen=True)
class IluOptions:
    """A penalty on unrelated text that makes forgetting invariant to later training (ILU); any method that trains."""

    path: str | None = place(None, ("prepare",), "text", "unrelated text, named as corpus.path")
    field: str = result("text", ("prepare",), "as corpus.field")
    split: str = result("train", ("prepare",), "as corpus.split")
    weight: float = result(0.0, FORGET, "weight of the penalty; 0 = off (published: 0.05 to 0.1)", least=0)
    rows: int = result(0, FORGET, "blocks of unrelated text that each step reads", least=0, most=MOST_ROWS)


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """The adapters of stages whose weights are lora: a product of two thin matrices beside every dense layer."""

    rank: int = result(16, ADAPTED, "columns of the first matrix and rows of the second", above=0)
    alpha: float = result(32.0, ADAPTED, "the product is multiplied by alpha / rank", above=0)
