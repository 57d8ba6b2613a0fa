"""Suite `soft_prompt`: the questions behind vectors that were optimised to bring the answers back (2402.09063).

The vectors are optimised on the questions of half of the answers and measured on the questions of the other half, so a
high probability shows knowledge that the model kept, not answers that the vectors hold.

Letters in shapes: B rows, S positions, A answer tokens, K vectors, D hidden, V vocabulary.
"""

import functools
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.errors import UserError
from jaxforget.evals.familiarity import ANSWER, EncodedProbe
from jaxforget.evals.probes import Probe, familiarity_path, load_familiarity
from jaxforget.evals.prompting import cut_to_length
from jaxforget.evals.rows import Row, mean_row
from jaxforget.evals.suite import MissingInput, RunInputs, Suite
from jaxforget.lm.model import Model, materialize
from jaxforget.models.transformer import Transformer
from jaxforget.output_projection import logits_of
from jaxforget.sharding import put_rows, row_shards
from jaxforget.train.types import Array, Params

BUCKET = 32  # widths of batches are multiples of it, so that models share compilations
Batch = dict[str, Any]


def split_by_answer(probes: Sequence[Probe], *, seed: int = 0) -> tuple[list[Probe], list[Probe]]:
    """Return the questions to optimise on and those to measure; the two share no answer.

    Raises:
      UserError: all questions have the same answer.
    """
    answers = sorted({probe.answer.strip() for probe in probes})
    if len(answers) < 2:
        raise UserError(f"evals.probes: every familiarity question has the answer {answers[0]!r}; two are needed")
    random.Random(seed).shuffle(answers)
    taught = set(answers[: len(answers) // 2])
    return (
        [probe for probe in probes if probe.answer.strip() in taught],
        [probe for probe in probes if probe.answer.strip() not in taught],
    )


def make_batches(probes: Sequence[EncodedProbe], rows: int, width: int, count: int) -> list[Batch]:
    """Return batches of encoded probes in their order; the last one is filled with rows of weight 0.

    Args:
      probes: their ids hold K placeholders where the vectors stand.
      rows: rows of a batch.
      width: positions of a row.
      count: answer tokens of a row at most.

    Returns:
      {"tokens" int32 [B, S], "places" int32 [B, A] of the positions before the answer's tokens, "answers" int32 [B, A],
      "counted" fp32 [B, A], "weights" fp32 [B]} each.
    """
    batches = []
    for first in range(0, len(probes), rows):
        batch = {
            "tokens": np.zeros((rows, width), np.int32),
            "places": np.zeros((rows, count), np.int32),
            "answers": np.zeros((rows, count), np.int32),
            "counted": np.zeros((rows, count), np.float32),
            "weights": np.zeros(rows, np.float32),
        }
        for row, probe in enumerate(probes[first : first + rows]):
            own = len(probe.ids) - probe.start
            batch["tokens"][row, : len(probe.ids)] = probe.ids
            batch["places"][row, :own] = np.arange(probe.start - 1, len(probe.ids) - 1)
            batch["answers"][row, :own] = probe.ids[probe.start :]
            batch["counted"][row, :own] = 1
            batch["weights"][row] = 1
        batches.append(batch)
    return batches


def answer_log_probabilities(module: Transformer, begin: int, soft: Array, params: Params, batch: Batch) -> Array:
    """Return log P(answer) of every row, fp32 [B], with the vectors in the place of K tokens.

    Only the logits of answer tokens are computed, [B, A, V].

    Args:
      module: the model.
      begin: position of the first vector: behind the begin token, where the tokenizer adds one.
      soft: the vectors, fp32 [K, D], in the scale of the embedding table.
      params: the model's parameters.
      batch: from `make_batches`.
    """

    def look_up(table: Array, tokens: Array) -> Array:
        found = module.look_up(table, tokens)
        return found.at[:, begin : begin + len(soft)].set(soft.astype(found.dtype))

    variables = {"params": params}
    hidden = module.clone(look_up=look_up).apply(variables, batch["tokens"], method="hidden")
    hidden = jnp.take_along_axis(hidden, batch["places"][:, :, None], axis=1)  # [B, A, D]
    logits = logits_of(hidden, module.apply(variables, method="head"), module.config.logit_soft_cap)
    logp = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["answers"][:, :, None], axis=2)[:, :, 0]
    return (logp * batch["counted"]).sum(axis=1)


@functools.lru_cache(maxsize=2)
def _programs(module: Transformer, mesh: Mesh, begin: int, learning_rate: float) -> tuple[Any, Callable, Callable]:
    # Cached, so that the models of one run share one compilation.
    optimizer = optax.adam(learning_rate)
    log_answers = functools.partial(answer_log_probabilities, module, begin)

    def step(soft: Array, moments: Any, scale: Array, params: Params, batch: Batch) -> tuple[Array, Any]:
        def loss(soft: Array) -> Array:
            logp = log_answers(soft * scale, params, batch)
            return -(logp * batch["weights"]).sum() / batch["weights"].sum()

        updates, moments = optimizer.update(jax.grad(loss)(soft), moments, soft)
        return optax.apply_updates(soft, updates), moments

    def score(soft: Array, scale: Array, params: Params, batch: Batch) -> Array:
        return log_answers(soft * scale, params, batch)

    whole = NamedSharding(mesh, PartitionSpec())
    return optimizer, jax.jit(step, out_shardings=whole), jax.jit(score, out_shardings=whole)


def measure(
    model: Model,
    *,
    probes: Path,
    prompt_vectors: int = 8,
    prompt_steps: int = 64,
    prompt_batch: int = 16,
    prompt_rate: float = 0.1,
    seed: int = 0,
) -> list[Row]:
    """Ask half of the questions behind a soft prompt that was optimised on the other half.

    The keywords have names of their own, because the group `robustness` gives equal names to all of its suites.

    Args:
      model: the model; its weights are not changed.
      probes: JSON {"familiarity": [{"prompt", "answer"}]} with at least two different answers.
      prompt_vectors: length of the soft prompt.
      prompt_steps: steps of Adam.
      prompt_batch: questions in a step, rounded up to a multiple of the mesh's data shards.
      prompt_rate: Adam's rate, in units of the embedding table's root mean square.
      seed: seed of the split and of the first vectors, which are normal with the table's root mean square.
    """
    for option, value in (("vectors", prompt_vectors), ("steps", prompt_steps), ("batch", prompt_batch)):
        if not value > 0:
            raise UserError(f"prompt_{option}={value}: must be above 0")
    if not prompt_rate > 0:
        raise UserError(f"prompt_rate={prompt_rate}: must be above 0")
    model, shards = materialize(model), row_shards(model.mesh)
    rows = -(-prompt_batch // shards) * shards
    room = model.config.max_position_embeddings - prompt_vectors
    halves = split_by_answer(load_familiarity(probes).familiarity, seed=seed)
    bos = model.tokenizer.bos_token_id
    taught, asked = ([cut_to_length(probe, model.tokenizer, room) for probe in half] for half in halves)
    begin = int(bos is not None and all(probe.ids[0] == bos for probe in (*taught, *asked)))
    taught, asked = ([_placed(probe, begin, prompt_vectors) for probe in half] for half in (taught, asked))
    longest = max(len(probe.ids) for probe in (*taught, *asked))
    width = min(-(-longest // BUCKET) * BUCKET, model.config.max_position_embeddings)
    count = max(len(probe.ids) - probe.start for probe in (*taught, *asked))
    order = np.random.default_rng(seed).permutation(len(taught))
    lessons = make_batches([taught[i] for i in order], rows, width, count)

    optimizer, step, score = _programs(model.module, model.mesh, begin, prompt_rate)
    whole = NamedSharding(model.mesh, PartitionSpec())
    table = model.params["embed"]
    scale = jax.jit(lambda x: jnp.sqrt(jnp.mean(jnp.square(x.astype(jnp.float32)))), out_shardings=whole)(table)
    first = np.random.default_rng(seed).standard_normal((prompt_vectors, table.shape[1]), np.float32)
    soft = start = jax.device_put(first, whole)
    moments = jax.device_put(optimizer.init(soft), whole)
    for number in range(prompt_steps):
        lesson = put_rows(lessons[number % len(lessons)], model.mesh)
        soft, moments = step(soft, moments, scale, model.params, lesson)

    def probabilities(soft: Array, encoded: Sequence[EncodedProbe]) -> np.ndarray:
        batches = make_batches(encoded, rows, width, count)
        parts = [np.asarray(score(soft, scale, model.params, put_rows(part, model.mesh))) for part in batches]
        return np.exp(np.float64(np.concatenate(parts)[: len(encoded)]))

    how = f"{prompt_steps} steps of Adam {prompt_rate:g} on {len(taught)} questions with other answers"
    behind, name = f"{ANSWER}; behind a soft prompt of {prompt_vectors} vectors", model.folder.name
    return [
        mean_row("soft_prompt", f"{behind}, {how}", name, probabilities(soft, asked), compared=True),
        mean_row("soft_prompt_start", f"{behind} before its optimisation", name, probabilities(start, asked)),
        mean_row("soft_prompt_taught", f"{behind}, {how}; those questions", name, probabilities(soft, taught)),
    ]


def _placed(probe: EncodedProbe, begin: int, vectors: int) -> EncodedProbe:
    """Return the probe with placeholders for the vectors at `begin`."""
    return EncodedProbe((*probe.ids[:begin], *[0] * vectors, *probe.ids[begin:]), probe.start + vectors)


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run.

    Raises:
      MissingInput: there are no questions, or all of them have the same answer.
    """
    path = familiarity_path(run)
    if len({probe.answer.strip() for probe in load_familiarity(path).familiarity}) < 2:
        raise MissingInput(f"{path}: holds questions of one answer only; a soft prompt needs two different answers")
    return {"probes": path, "seed": run.config.seed}


SUITE = Suite(
    "the questions behind a soft prompt optimised on other questions",
    measure,
    options,
    excluded_models=("base", "reinforced"),
)
