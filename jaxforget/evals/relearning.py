"""Relearning: a few steps of plain training, and the questions asked again (Hu et al., 2406.13356; 2410.08827).

The steps are those of the reinforced model: the same function, optimiser and loss.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxforget.errors import UserError
from jaxforget.evals.probes import Probe
from jaxforget.evals.prompting import holds
from jaxforget.sharding import put_rows
from jaxforget.train.objectives import NextToken
from jaxforget.train.optimizer import make_optimizer
from jaxforget.train.precision import compute_params
from jaxforget.train.state import init_state, state_shardings
from jaxforget.train.step import StepOptions, make_step
from jaxforget.train.types import Forward, Frozen, Params


@dataclasses.dataclass(frozen=True)
class RelearnOptions:
    """Of the training: AdamW at a constant rate.

    steps: after each of which the questions are asked, ascending; 0 is before training. batch: blocks in a step.
    tile: tokens per device whose logits exist at a time. accumulate: microbatches of a step. halves: the forward pass
    reads bf16, so fp32 weights train split.
    """

    steps: tuple[int, ...]
    batch: int
    learning_rate: float
    tile: int
    accumulate: int = 1
    b1: float = 0.9
    b2: float = 0.98
    moment_dtype: str = "float32"
    halves: bool = False
    seed: int = 0


def make_relearner(
    forward: Forward, mesh: Mesh, options: RelearnOptions
) -> Callable[[Params, Sequence[np.ndarray], Callable[[Params], np.ndarray]], dict[int, np.ndarray]]:
    """A function `(params, blocks, measure) -> {step: values}` that compiles once for all models and texts.

    params: fp32 weights, which are taken over. blocks: token ids, int32 [n] each. measure: values of the weights that
    the forward pass reads.
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
            where = jax.tree.map(lambda leaf: leaf.sharding, params)
            shardings = state_shardings(shapes, where, optimizer, mesh, halves=options.halves)
            step_options = StepOptions(tile=options.tile, accumulate=options.accumulate)
            compiled["step"] = make_step(forward, optimizer, NextToken(), step_options, mesh, shardings)
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
    """Endless batches {"tokens" int32 [rows, S], "weights" fp32 [rows, S]}: pass after pass, each in its own order."""
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
    """Questions to ask after training, and the sentences to train on, none of which holds one of their answers.

    Asked are the questions whose answers stand in the fewest sentences, up to half of all answers: what is left of the
    text then is most of it.

    Raises:
      UserError: no sentence is left.
    """
    answers = list(dict.fromkeys(probe.answer.strip() for probe in probes))
    told = {answer: sum(holds(sentence, answer) for sentence in sentences) for answer in answers}
    rarest = sorted(answers, key=lambda answer: told[answer])[: max(1, len(answers) // 2)]
    left = [sentence for sentence in sentences if not any(holds(sentence, answer) for answer in rarest)]
    if not left:
        raise UserError("every sentence of the target holds an answer of evals.probes; no text is left to relearn from")
    return [probe for probe in probes if probe.answer.strip() in rarest], left
