"""Attacks on a loaded model: outcomes by kind, and the suites of the Python API that give them as rows."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document, Source
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.errors import UserError
from jaxforget.evals.familiarity import answer_probabilities, encode_probe
from jaxforget.evals.outcomes import Outcome, outcome_rows
from jaxforget.evals.probes import Probe, Probes, load_probes
from jaxforget.evals.prompting import (
    CONVENTION,
    Wording,
    chat_of,
    load_wording,
    prompt_attacks,
    prompt_outcomes,
    split_sentences,
)
from jaxforget.evals.relearning import RelearnOptions, asked_and_taught, make_relearner
from jaxforget.evals.weight_attacks import QUANTISED_SAID, interpolated, quantised
from jaxforget.lm.forward import make_forward, recomputing
from jaxforget.lm.model import Model, load, materialize
from jaxforget.models.transformer import Transformer
from jaxforget.sharding import row_shards
from jaxforget.stages.suites.loaded import scorer

BITS = (8, 4)
SHARES = (0.25, 0.5, 0.75)
Row = dict[str, Any]


def prompting_outcomes(
    model: Model, probes: Sequence[Probe], sentences: Sequence[str], cues: Sequence[str], wording: Wording, seed: int
) -> list[Outcome]:
    """Every attack by prompt; see `jaxforget.evals.prompting.prompt_attacks`."""
    attacks = prompt_attacks(probes, sentences, cues, wording, seed=seed, chat=chat_of(model.tokenizer))
    length = model.config.max_position_embeddings
    return prompt_outcomes(attacks, scorer(model), model.params, model.tokenizer, length=length)


def weight_outcomes(model: Model, asked: Probes, base: Model | None) -> list[Outcome]:
    """The questions with weights in few bits and, where `base` is of the same shape, on the way back to it.

    What rounding costs shows in the retained questions; they are no leak.
    """
    model, base = materialize(model), None if base is None else materialize(base)
    groups = {
        "": ([encode_probe(probe, model.tokenizer) for probe in asked.familiarity], CONVENTION),
        "_retained": ([encode_probe(probe, model.tokenizer) for probe in asked.retained], f"{CONVENTION}, other text"),
    }

    def outcomes(attack: str, said: str, params: Any, suffixes: Sequence[str] = tuple(groups)) -> list[Outcome]:
        return [
            Outcome(
                attack + suffix,
                f"{said}; {groups[suffix][1]}",
                answer_probabilities(scorer(model), params, groups[suffix][0]),
                leak=not suffix,
            )
            for suffix in suffixes
            if groups[suffix][0]
        ]

    found = []
    for bits in BITS:
        found += outcomes(f"int{bits}", f"{bits} bits: {QUANTISED_SAID}", quantised(model.params, bits))
    if base is None or base.config != model.config:
        return found
    for share in SHARES:
        back = round(100 * (1 - share))
        mixed = interpolated(base.params, model.params, share)
        found += outcomes(f"back_to_base_{back}", f"weights {back} % of the way back to base", mixed, ("",))
    return found


@functools.lru_cache(maxsize=2)
def _relearner(module: Transformer, mesh: Mesh, options: RelearnOptions) -> Callable:
    # Kept, so that model after model of one run compiles once.
    return make_relearner(make_forward(module), mesh, options)


def relearn_steps(last: int) -> tuple[int, ...]:
    """After which steps the questions are asked: early ones tell most, since what comes back at once was never gone."""
    return tuple(sorted({0, *(last * part // 8 for part in (1, 2, 4, 8))}))


def relearn_outcomes(
    model: Model,
    probes: Sequence[Probe],
    sentences: Sequence[str],
    neighbours: Sequence[np.ndarray],
    options: RelearnOptions,
    *,
    length: int,
    remat: str = "none",
) -> list[Outcome]:
    """The questions asked after training on the target without their answers, and on neighbours' text alone.

    Args:
      model: read anew from its folder for training, in fp32; it is left as it is.
      sentences: of the target.
      neighbours: blocks of other text in the model's tokens; none leaves that attack out.
      length: tokens of a block of the target's.
      remat: what the backward pass recomputes, as model.remat.
    """
    module = recomputing(model.module, remat)
    asked, taught = asked_and_taught(probes, sentences)
    questions = [encode_probe(probe, model.tokenizer) for probe in asked]
    target = cut_blocks([Document("target", "\n".join(taught))], model.tokenizer, length=length)[0]
    texts = {"target": (target, "target text without the answers asked for")}
    if len(neighbours):
        picked = np.random.default_rng(options.seed).permutation(len(neighbours))[: len(target)]
        texts["neighbours"] = ([neighbours[i] for i in picked], "neighbours' text")
    found = []
    for text, (blocks, said) in texts.items():
        # Read anew: training takes the weights over.
        params = materialize(load(model.folder, "float32", model.mesh)).params
        values = _relearner(module, model.mesh, options)(
            params, blocks, lambda params: answer_probabilities(scorer(model), params, questions)
        )
        del params
        how = f"batch {options.batch}, AdamW {options.learning_rate:g}, {sum(map(len, blocks))} tokens of {said}"
        found += [
            Outcome(f"relearn_{text}_{step}", f"{CONVENTION}; after {step} steps of training, {how}", scores)
            for step, scores in values.items()
        ]
    return found


def _familiarity(place: str | Path) -> Probes:
    probes = load_probes(place)
    if not probes.familiarity:
        raise UserError(f"{place}: holds no familiarity questions, which attacks ask")
    return probes


def _sentences(place: str | Path | None, field: str) -> list[str]:
    documents = () if place is None else Source(place, field).documents()
    return [sentence for document in documents for sentence in split_sentences(document.text)]


def _beside(outcomes: Callable[[Model], list[Outcome]], model: Model, control: Model | None) -> list[Row]:
    return outcome_rows(outcomes(model), None if control is None else outcomes(control), model.folder.name)


def prompting(
    model: Model,
    probes: str | Path,
    *,
    data: str | Path | None = None,
    anchors: str | Path | None = None,
    attacks: str | Path | None = None,
    control: Model | None = None,
    field: str = "text",
    seed: int = 0,
) -> list[Row]:
    """Attacks by prompt; see `jaxforget.evals.prompting`.

    Args:
      model: what is attacked.
      probes: JSON {"familiarity": [{"prompt", "answer"}]}.
      data: the target's text, for cues in the context.
      anchors: the target's dictionary, which says what a cue is; without it, words with a capital.
      attacks: the user's own words, as evals.attacks.
      control: a model that never read the target; its distance is given for every attack.
      field: of .jsonl records.
      seed: of the choice of examples and cues.
    """
    asked, sentences, wording = _familiarity(probes).familiarity, _sentences(data, field), load_wording(attacks)
    cues = () if anchors is None else tuple(Anchors.load(anchors).entries)
    return _beside(lambda m: prompting_outcomes(m, asked, sentences, cues, wording, seed), model, control)


def weights(model: Model, probes: str | Path, *, base: Model | None = None, control: Model | None = None) -> list[Row]:
    """Attacks on the weights, `probes` asked; with `base` also on the way back to it. See `weight_outcomes`."""
    asked = _familiarity(probes)
    return _beside(lambda m: weight_outcomes(m, asked, base), model, control)


def relearning(
    model: Model,
    probes: str | Path,
    *,
    data: str | Path,
    neighbours: str | Path | None = None,
    control: Model | None = None,
    steps: int = 24,
    batch: int = 16,
    learning_rate: float = 1e-5,
    length: int = 128,
    field: str = "text",
    seed: int = 0,
) -> list[Row]:
    """`probes` asked after training on the text in `data` without their answers, and on `neighbours`' text alone.

    Args:
      steps: of training; the questions are asked along the way. batch: blocks in a step, rounded up to what the mesh
        divides. length: tokens of a block.
    """
    for name, value in (("steps", steps), ("batch", batch), ("learning_rate", learning_rate)):
        if not value > 0:
            raise UserError(f"{name}={value}: must be above 0")
    asked, sentences = _familiarity(probes).familiarity, _sentences(data, field)
    shards = row_shards(model.mesh)
    options = RelearnOptions(
        relearn_steps(steps),
        -(-batch // shards) * shards,
        learning_rate,
        tile=1024,
        halves=str(model.module.dtype) == "bfloat16",
        seed=seed,
    )

    def outcomes(attacked: Model) -> list[Outcome]:
        size = min(length, attacked.config.max_position_embeddings)
        documents = () if neighbours is None else Source(neighbours, field).documents()
        blocks = cut_blocks(documents, attacked.tokenizer, length=size)[0] if neighbours is not None else []
        return relearn_outcomes(attacked, asked, sentences, blocks, options, length=size)

    return _beside(outcomes, model, control)


def robustness(
    model: Model,
    probes: str | Path,
    *,
    data: str | Path | None = None,
    anchors: str | Path | None = None,
    attacks: str | Path | None = None,
    base: Model | None = None,
    neighbours: str | Path | None = None,
    control: Model | None = None,
    steps: int = 24,
    batch: int = 16,
    learning_rate: float = 1e-5,
    length: int = 128,
    field: str = "text",
    seed: int = 0,
) -> list[Row]:
    """`prompting`, `weights` and, where there is `data`, `relearning`, with their keywords."""
    asked = {"control": control, "field": field, "seed": seed}
    rows = prompting(model, probes, data=data, anchors=anchors, attacks=attacks, **asked)
    rows += weights(model, probes, base=base, control=control)
    if data is not None:
        training = {"steps": steps, "batch": batch, "learning_rate": learning_rate, "length": length}
        rows += relearning(model, probes, data=data, neighbours=neighbours, **training, **asked)
    return rows
