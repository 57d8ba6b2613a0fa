"""Suites `prompting`, `weights` and `relearning`: attacks on every model of a run, each beside the control's."""

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from jaxforget.corpus.anchors import Anchors
from jaxforget.corpus.text import Document, read_documents
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.evals.attacks import Outcome, outcome_rows
from jaxforget.evals.familiarity import answer_probabilities, encode_probe
from jaxforget.evals.probes import load_probes
from jaxforget.evals.prompting import CONVENTION, load_wording, prompt_attacks, prompt_outcomes, split_sentences
from jaxforget.evals.relearning import RelearnOptions, asked_and_taught, make_relearner
from jaxforget.evals.weight_attacks import QUANTISED_SAID, interpolated, quantised
from jaxforget.files import read_json, write_json
from jaxforget.model import load, make_forward, make_module
from jaxforget.models.llama import Llama
from jaxforget.stages.evidence import Models, Row, Suite
from jaxforget.stages.hashes import hash_data, hash_model, hash_papers, hash_text
from jaxforget.stages.run import Run, wait_for_all
from jaxforget.stages.suites import scorer

GROUP = ("robustness",)
BITS = (8, 4)
SHARES = (0.25, 0.5, 0.75)
NEIGHBOURS = 2000  # documents of the retained text that are read at most


def _lacks_familiarity(run: Run) -> str | None:
    place = run.config.evals.probes
    if place is None:
        return 'evals.probes is not set; it names questions, {"familiarity": [{"prompt", "answer"}]}'
    return None if load_probes(place).familiarity else f"evals.probes={place}: holds no familiarity questions"


def cues_of(run: Run) -> list[str]:
    """The anchors of the run's dictionary; none where it has none."""
    return list(Anchors.load(run.anchors, keep_all=True).entries) if run.anchors.is_file() else []


def _sentences(run: Run) -> list[str]:
    config = run.config.corpus
    documents = read_documents(run.corpus, field=config.field, split=config.split)
    return [sentence for document in documents for sentence in split_sentences(document.text)]


def _common_inputs(run: Run) -> dict[str, str]:
    config = run.config
    return {
        "evals.probes": hash_text(run, config.evals.probes),
        "corpus.path": hash_text(run, run.corpus),
        "corpus.field": config.corpus.field,
        "seed": str(config.seed),
    }


def _prompting_inputs(run: Run) -> dict[str, str]:
    wording = run.config.evals.attacks
    given = {} if wording is None else {"evals.attacks": hash_data(run, wording)}
    return {**_common_inputs(run), **given, "anchors": hash_data(run, str(run.anchors))}


def _prompting(run: Run, models: Models, name: str) -> list[Outcome]:
    model = models[name]
    probes = load_probes(run.config.evals.probes).familiarity
    wording = load_wording(run.config.evals.attacks)
    attacks = prompt_attacks(probes, _sentences(run), cues_of(run), wording, seed=run.config.seed)
    length = model.config.max_position_embeddings
    return prompt_outcomes(attacks, scorer(model), model.params, model.tokenizer, length=length)


def _weights_inputs(run: Run) -> dict[str, str]:
    return {"evals.probes": hash_text(run, run.config.evals.probes), "base": hash_model(run, run.base)}


def _weights(run: Run, models: Models, name: str) -> list[Outcome]:
    model, asked = models[name], load_probes(run.config.evals.probes)
    groups = {
        "": ([encode_probe(probe, model.tokenizer) for probe in asked.familiarity], CONVENTION),
        "_retained": ([encode_probe(probe, model.tokenizer) for probe in asked.retained], f"{CONVENTION}, other text"),
    }

    def outcomes(attack: str, said: str, params: object, suffixes: Sequence[str] = ("", "_retained")) -> list[Outcome]:
        return [
            Outcome(
                attack + suffix,
                f"{said}; {convention}",
                answer_probabilities(scorer(model), params, probes),
                not suffix,
            )
            for suffix, (probes, convention) in groups.items()
            if probes and suffix in suffixes
        ]

    found = []
    for bits in BITS:
        found += outcomes(f"int{bits}", f"{bits} bits: {QUANTISED_SAID}", quantised(model.params, bits))
    base = models["base"]
    if name == "base" or jax.tree.structure(base.params) != jax.tree.structure(model.params):
        return found
    if any(a.shape != b.shape for a, b in zip(*map(jax.tree.leaves, (base.params, model.params)), strict=True)):
        return found
    for share in SHARES:
        said = f"weights {1 - share:.0%} of the way back to base".replace("%", " %")
        mixed = interpolated(base.params, model.params, share)
        found += outcomes(f"back_to_base_{round(100 * (1 - share))}", said, mixed, ("",))
    return found


def _relearning_inputs(run: Run) -> dict[str, str]:
    config = run.config
    taught = {} if config.retain.path is None else {"retain.path": hash_text(run, config.retain.path)}
    options = _relearn_options(run)
    trained = {name: repr(getattr(options, name)) for name in ("steps", "batch", "learning_rate", "b1", "b2")}
    return {**_common_inputs(run), **taught, **trained, "blocks.length": repr(config.blocks.length)}


def _relearn_options(run: Run) -> RelearnOptions:
    config = run.config
    last = config.evals.relearn_steps
    shards = run.mesh.shape["data"] * run.mesh.shape["fsdp"]
    return RelearnOptions(
        # Early steps tell most: what comes back at once was never gone.
        steps=tuple(sorted({0, *(last * part // 8 for part in (1, 2, 4, 8))})),
        batch=-(-config.evals.relearn_batch // shards) * shards,
        learning_rate=config.evals.relearn_rate or config.reinforce.learning_rate,
        tile=config.targets.tile,
        b1=config.reinforce.b1,
        b2=config.reinforce.b2,
        moment_dtype=config.reinforce.moment_dtype,
        halves=config.model.dtype == "bfloat16",
        seed=config.seed,
    )


@functools.lru_cache(maxsize=2)
def _relearner(module: Llama, mesh: Mesh, options: RelearnOptions) -> Callable:
    # Kept, so that model after model of one run compiles once.
    return make_relearner(make_forward(module), mesh, options)


def _relearning(run: Run, models: Models, name: str) -> list[Outcome]:
    config, options = run.config, _relearn_options(run)
    model = models[name]
    module = make_module(model.config, run.mesh, config.model.dtype, config.model.remat)
    asked, sentences = asked_and_taught(load_probes(config.evals.probes).familiarity, _sentences(run))
    questions = [encode_probe(probe, model.tokenizer) for probe in asked]
    length = min(config.blocks.length, model.config.max_position_embeddings)
    target = cut_blocks([Document("target", "\n".join(sentences))], model.tokenizer, length=length)[0]
    texts = {"target": (target, "target text without the answers asked for")}
    if config.retain.path is not None:
        neighbours = _neighbours(run, model.tokenizer, length, len(target))
        texts["neighbours"] = (neighbours, "retain.path's text, as much of it")
    found = []
    for text, (blocks, said) in texts.items():
        # Read anew: training takes the weights over.
        student = load(models.folders[name], config.model.param_dtype, run.mesh)
        values = _relearner(module, run.mesh, options)(
            student.params, blocks, lambda params: answer_probabilities(scorer(model), params, questions)
        )
        del student
        tokens = sum(map(len, blocks))
        how = f"batch {options.batch}, AdamW {options.learning_rate:g}, {tokens} tokens of {said}"
        found += [
            Outcome(f"relearn_{text}_{step}", f"{CONVENTION}; after {step} steps of training, {how}", scores)
            for step, scores in values.items()
        ]
    return found


def _neighbours(run: Run, tokenizer: object, length: int, count: int) -> list[np.ndarray]:
    config = run.config.retain
    documents = itertools.islice(read_documents(config.path, field=config.field, split=config.split), NEIGHBOURS)
    blocks = cut_blocks(documents, tokenizer, length=length)[0]
    picked = np.random.default_rng(run.config.seed).permutation(len(blocks))[:count]
    return [blocks[i] for i in picked]


def _measured(kind: str, outcomes: Callable[[Run, Models, str], list[Outcome]], inputs: Callable) -> Callable:
    """`Suite.measure` of an attack: the model's rows, and how far they lie above the control's."""

    def kept(run: Run, models: Models, name: str) -> list[Outcome]:
        """Outcomes, made once a model: every other is read against the control's."""
        folder = models.folders[name]
        depends = {
            **inputs(run),
            "model": hash_model(run, folder),
            "tokenizer": hash_papers(run, folder),
            "model.dtype": run.config.model.dtype,
        }
        path = outcome_file(run, kind, name)
        value = read_json(path) if path.is_file() else {}
        wait_for_all(f"{kind}, {name}: outcomes judged")
        if value.get("inputs") == depends:
            return [Outcome.from_json(item) for item in value["outcomes"]]
        found = outcomes(run, models, name)
        if jax.process_index() == 0:
            write_json(path, {"inputs": depends, "outcomes": [outcome.as_json() for outcome in found]})
        wait_for_all(f"{kind}, {name}: outcomes kept")
        return found

    def measure(run: Run, models: Models, name: str) -> list[Row]:
        found = kept(run, models, name)
        control = kept(run, models, "control") if "control" in models and name != "control" else None
        return outcome_rows(found, control, name)

    return measure


def outcome_file(run: Run, kind: str, name: str) -> Path:
    """Where the outcomes of an attack on a model lie: one value a question."""
    return run.evals / "attacks" / kind / f"{name}.json"


def _suite(name: str, says: str, inputs: Callable, outcomes: Callable, **more: object) -> Suite:
    measure = _measured(name, outcomes, inputs)
    return Suite(name, says, _lacks_familiarity, inputs, measure, groups=GROUP, against=("control",), **more)


ROBUSTNESS = (
    _suite(
        "prompting",
        "the questions in other words and languages, behind cues, examples and orders",
        _prompting_inputs,
        _prompting,
    ),
    _suite("weights", "weights in 8 and 4 bits, and drawn back towards base", _weights_inputs, _weights),
    _suite(
        "relearning",
        "questions asked again after a few steps of training on other text",
        _relearning_inputs,
        _relearning,
        without=("base", "reinforced"),
    ),
)
