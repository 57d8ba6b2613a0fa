"""Suite `relearning`: the questions after a few steps of plain training (Hu et al., 2406.13356; 2410.08827).

The step is compiled by the same function as that of the stage reinforce and has the same loss, of the next token. AdamW
has the stage's betas and dtype of moments, but a constant rate, no weight decay and no clipping.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxforget.corpus.text import Document, Source
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.errors import UserError
from jaxforget.evals.familiarity import ANSWER, answer_probabilities, encode_probe
from jaxforget.evals.probes import Probe, familiarity_path, load_familiarity
from jaxforget.evals.prompting import holds, split_sentences
from jaxforget.evals.rows import Row, mean_row
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.suite import RunInputs, Suite
from jaxforget.lm.forward import make_forward, recomputing
from jaxforget.lm.model import Model, load, materialize
from jaxforget.models.transformer import Transformer
from jaxforget.sharding import put_rows, row_shards
from jaxforget.train.objectives import NextToken
from jaxforget.train.optimizer import make_optimizer
from jaxforget.train.precision import compute_params
from jaxforget.train.state import init_state, state_shardings
from jaxforget.train.step import StepOptions, make_step
from jaxforget.train.types import Forward, Frozen, Params

DOCUMENTS = 2000  # documents of the neighbours' or the unrelated text that are read at most


@dataclasses.dataclass(frozen=True)
class RelearnOptions:
    """Options of the training, which is AdamW at a constant rate.

    Attributes:
      steps: the steps after which the questions are asked, ascending; 0 is before training.
      batch: blocks in a step.
      learning_rate: the constant rate.
      tile: tokens per device whose logits exist at a time.
      b1: AdamW's first decay rate.
      b2: AdamW's second decay rate.
      moment_dtype: dtype of AdamW's moments.
      halves: the forward pass reads bf16, so fp32 weights train split.
      seed: seed of the blocks' order.
    """

    steps: tuple[int, ...]
    batch: int
    learning_rate: float
    tile: int
    b1: float = 0.9
    b2: float = 0.98
    moment_dtype: str = "float32"
    halves: bool = False
    seed: int = 0


def make_relearner(
    forward: Forward, mesh: Mesh, options: RelearnOptions
) -> Callable[[Params, Sequence[np.ndarray], Callable[[Params], np.ndarray]], dict[int, np.ndarray]]:
    """Return a function `(params, blocks, measure) -> {step: values}` that compiles once for all models and texts.

    Its arguments are fp32 weights, which it donates; blocks of token ids, int32 [n] each; and a function from the
    weights that the forward pass reads to values.
    """
    optimizer = make_optimizer(
        optax.constant_schedule(options.learning_rate),
        b1=options.b1,
        b2=options.b2,
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=None,
        moment_dtype=options.moment_dtype,
    )
    compiled = {}

    def relearn(
        params: Params, blocks: Sequence[np.ndarray], measure: Callable[[Params], np.ndarray]
    ) -> dict[int, np.ndarray]:
        if not compiled:
            shapes = jax.eval_shape(lambda tree: tree, params)
            placement = jax.tree.map(lambda leaf: leaf.sharding, params)
            shardings = state_shardings(shapes, placement, optimizer, mesh, halves=options.halves)
            compiled["step"] = make_step(forward, optimizer, NextToken(), StepOptions(options.tile), mesh, shardings)
            compiled["shardings"] = shardings
        state = init_state(params, optimizer, compiled["shardings"])
        found, batches = {}, batches_of(blocks, options.batch, seed=options.seed)
        for step in range(max(options.steps) + 1):
            if step in options.steps:
                found[step] = measure(compute_params(state.params))
            if step < max(options.steps):
                state, _ = compiled["step"](state, Frozen(), put_rows(next(batches), mesh))
        return found

    return relearn


def batches_of(blocks: Sequence[np.ndarray], rows: int, *, seed: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield endless batches {"tokens" int32 [rows, S], "weights" fp32 [rows, S]}; each pass has its own order."""
    width = max(len(block) for block in blocks)
    rng = np.random.default_rng(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < rows:
            waiting += rng.permutation(len(blocks)).tolist()
        chosen, waiting = waiting[:rows], waiting[rows:]
        tokens, weights = np.zeros((rows, width), np.int32), np.zeros((rows, width), np.float32)
        for row, number in enumerate(chosen):
            tokens[row, : len(blocks[number])] = blocks[number]
            weights[row, : len(blocks[number])] = 1
        yield {"tokens": tokens, "weights": weights}


def asked_and_taught(probes: Sequence[Probe], sentences: Sequence[str]) -> tuple[list[Probe], list[str]]:
    """Return the questions to ask after training, and the sentences to train on, which hold none of their answers.

    The questions are those whose answers occur in the fewest sentences, up to half of all answers; so most of the text
    remains.

    Raises:
      UserError: no sentence remains.
    """
    answers = list(dict.fromkeys(probe.answer.strip() for probe in probes))
    told = {answer: sum(holds(sentence, answer) for sentence in sentences) for answer in answers}
    rarest = sorted(answers, key=lambda answer: told[answer])[: max(1, len(answers) // 2)]
    left = [sentence for sentence in sentences if not any(holds(sentence, answer) for answer in rarest)]
    if not left:
        raise UserError("every sentence of the target holds an answer of evals.probes; no text remains to relearn from")
    return [probe for probe in probes if probe.answer.strip() in rarest], left


@functools.lru_cache(maxsize=2)
def _relearner(module: Transformer, mesh: Mesh, options: RelearnOptions) -> Callable:
    # Cached, so that the models of one run share one compilation.
    return make_relearner(make_forward(module), mesh, options)


def relearn_steps(last: int) -> tuple[int, ...]:
    """Return the steps after which the questions are asked, early ones included.

    Knowledge that returns within a few steps was never removed.
    """
    return tuple(sorted({0, *(last * part // 8 for part in (1, 2, 4, 8))}))


def measure(
    model: Model,
    *,
    probes: Path,
    data: Source,
    neighbours: Source | None = None,
    unrelated: Source | None = None,
    steps: int = 24,
    batch: int = 16,
    learning_rate: float = 1e-5,
    length: int = 128,
    b1: float = 0.9,
    b2: float = 0.98,
    moment_dtype: str = "float32",
    tile: int = 1024,
    remat: str = "none",
    seed: int = 0,
) -> list[Row]:
    """Ask the questions after training on the target without their answers, or only on other text.

    Args:
      model: read again from its folder for training, in fp32; it is not changed.
      probes: JSON {"familiarity": [{"prompt", "answer"}]}.
      data: the text to forget.
      neighbours: text like the target that is kept; None omits that attack.
      unrelated: general text; None omits that attack.
      steps: steps of training; the questions are asked along the way.
      batch: blocks in a step, rounded up to a multiple of the mesh's data shards.
      learning_rate: AdamW's constant rate.
      length: tokens of a block at most.
      b1: AdamW's first decay rate.
      b2: AdamW's second decay rate.
      moment_dtype: dtype of AdamW's moments.
      tile: tokens per device whose logits exist at a time.
      remat: the option model.remat of the training step.
      seed: seed of the blocks' order.
    """
    for name, value in (("steps", steps), ("batch", batch), ("learning_rate", learning_rate)):
        if not value > 0:
            raise UserError(f"{name}={value}: must be above 0")
    shards = row_shards(model.mesh)
    trained = RelearnOptions(
        relearn_steps(steps),
        -(-batch // shards) * shards,
        learning_rate,
        tile=tile,
        b1=b1,
        b2=b2,
        moment_dtype=moment_dtype,
        halves=str(model.module.dtype) == "bfloat16",
        seed=seed,
    )
    size = min(length, model.config.max_position_embeddings)
    questions = load_familiarity(probes).familiarity
    sentences = [sentence for document in data.documents() for sentence in split_sentences(document.text)]
    asked, taught = asked_and_taught(questions, sentences)
    target = cut_blocks([Document("target", "\n".join(taught))], model.tokenizer, length=size)[0]
    texts = {"target": (target, "target text without the answers asked for")}
    others = (("neighbours", neighbours, "neighbours' text"), ("unrelated", unrelated, "unrelated text"))
    for text, source, content in others:
        if source is not None:
            blocks = cut_blocks(itertools.islice(source.documents(), DOCUMENTS), model.tokenizer, length=size)[0]
            picked = np.random.default_rng(seed).permutation(len(blocks))[: len(target)]
            texts[text] = ([blocks[i] for i in picked], content)
    encoded = [encode_probe(probe, model.tokenizer) for probe in asked]
    relearn = _relearner(recomputing(model.module, remat), model.mesh, trained)
    rows = []
    for text, (blocks, content) in texts.items():
        # Read again for each text, because training donates the weights.
        params = materialize(load(model.folder, "float32", model.mesh)).params
        values = relearn(params, blocks, lambda params: answer_probabilities(scorer_of(model), params, encoded))
        del params
        how = f"batch {trained.batch}, AdamW {learning_rate:g}, {sum(map(len, blocks))} tokens of {content}"
        for step, scores in values.items():
            convention = f"{ANSWER}; after {step} steps of training, {how}"
            rows.append(mean_row(f"relearn_{text}_{step}", convention, model.folder.name, scores, compared=True))
    return rows


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    config = run.config
    return {
        "probes": familiarity_path(run),
        "data": run.target,
        "neighbours": run.retained,
        "unrelated": run.heldout,
        "steps": config.evals.relearn_steps,
        "batch": config.evals.relearn_batch,
        "learning_rate": config.evals.relearn_rate or config.reinforce.learning_rate,
        "length": config.blocks.length,
        "b1": config.reinforce.b1,
        "b2": config.reinforce.b2,
        "moment_dtype": config.reinforce.moment_dtype,
        "tile": config.targets.tile,
        "remat": config.model.remat,
        "seed": config.seed,
    }


SUITE = Suite(
    "some questions after a few steps of training on the target without their answers, or on other text",
    measure,
    options,
    excluded_models=("base", "reinforced"),
)
