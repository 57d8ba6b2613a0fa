"""Suites `prompting`, `weights` and `relearning`: attacks on every model of a run, each beside the control's."""

import itertools
from collections.abc import Callable
from pathlib import Path

from jaxforget.corpus.tokens import cut_blocks
from jaxforget.evals.outcomes import Outcome, outcome_rows
from jaxforget.evals.probes import load_probes
from jaxforget.evals.prompting import load_wording, split_sentences
from jaxforget.evals.relearning import RelearnOptions
from jaxforget.sharding import row_shards
from jaxforget.stages.hashes import hash_data, hash_model, hash_source, hash_tokenizer_files
from jaxforget.stages.prepare import read_dictionary
from jaxforget.stages.run import Run
from jaxforget.stages.suites.loaded_attacks import prompting_outcomes, relearn_outcomes, relearn_steps, weight_outcomes
from jaxforget.stages.suites.suite import Models, Row, Suite, keep

GROUP = ("robustness",)
NEIGHBOURS = 2000  # documents of the retained text that are read at most


def _lacks_familiarity(run: Run) -> str | None:
    place = run.config.evals.probes
    if place is None:
        return 'evals.probes is not set; it names questions, {"familiarity": [{"prompt", "answer"}]}'
    return None if load_probes(place).familiarity else f"evals.probes={place}: holds no familiarity questions"


def cues_of(run: Run) -> list[str]:
    """The anchors of the run's dictionary; none where it has none."""
    return list(read_dictionary(run).entries) if run.anchors.is_file() else []


def _sentences(run: Run) -> list[str]:
    return [sentence for document in run.target.documents() for sentence in split_sentences(document.text)]


def _common_inputs(run: Run) -> dict[str, str]:
    config = run.config
    return {
        "evals.probes": hash_data(run, config.evals.probes),
        "corpus.path": hash_source(run, run.target),
        "seed": str(config.seed),
    }


def _prompting_inputs(run: Run) -> dict[str, str]:
    wording = run.config.evals.attacks
    given = {} if wording is None else {"evals.attacks": hash_data(run, wording)}
    return {**_common_inputs(run), **given, "anchors": hash_data(run, str(run.anchors))}


def _prompting(run: Run, models: Models, name: str) -> list[Outcome]:
    probes = load_probes(run.config.evals.probes).familiarity
    wording = load_wording(run.config.evals.attacks)
    return prompting_outcomes(models[name], probes, _sentences(run), cues_of(run), wording, run.config.seed)


def _weights_inputs(run: Run) -> dict[str, str]:
    return {"evals.probes": hash_data(run, run.config.evals.probes), "base": hash_model(run, run.base)}


def _weights(run: Run, models: Models, name: str) -> list[Outcome]:
    base = None if name == "base" else models["base"]
    return weight_outcomes(models[name], load_probes(run.config.evals.probes), base)


def _relearning_inputs(run: Run) -> dict[str, str]:
    config = run.config
    taught = {} if run.retained is None else {"retain.path": hash_source(run, run.retained)}
    options = _relearn_options(run)
    trained = {name: repr(getattr(options, name)) for name in ("steps", "batch", "learning_rate", "b1", "b2")}
    return {**_common_inputs(run), **taught, **trained, "blocks.length": repr(config.blocks.length)}


def _relearn_options(run: Run) -> RelearnOptions:
    config = run.config
    shards = row_shards(run.mesh)
    return RelearnOptions(
        steps=relearn_steps(config.evals.relearn_steps),
        batch=-(-config.evals.relearn_batch // shards) * shards,
        learning_rate=config.evals.relearn_rate or config.reinforce.learning_rate,
        tile=config.targets.tile,
        b1=config.reinforce.b1,
        b2=config.reinforce.b2,
        moment_dtype=config.reinforce.moment_dtype,
        halves=config.model.dtype == "bfloat16",
        seed=config.seed,
    )


def _relearning(run: Run, models: Models, name: str) -> list[Outcome]:
    config, model = run.config, models[name]
    length = min(config.blocks.length, model.config.max_position_embeddings)
    neighbours = []
    if run.retained is not None:
        documents = itertools.islice(run.retained.documents(), NEIGHBOURS)
        neighbours = cut_blocks(documents, model.tokenizer, length=length)[0]
    return relearn_outcomes(
        model,
        load_probes(config.evals.probes).familiarity,
        _sentences(run),
        neighbours,
        _relearn_options(run),
        length=length,
        remat=config.model.remat,
    )


def _measured(kind: str, outcomes: Callable[[Run, Models, str], list[Outcome]], inputs: Callable) -> Callable:
    """`Suite.measure` of an attack: the model's rows, and how far they lie above the control's."""

    def kept(run: Run, models: Models, name: str) -> list[Outcome]:
        """Outcomes, made once a model: every other is read against the control's."""
        folder = models.folders[name]
        depends = {
            **inputs(run),
            "model": hash_model(run, folder),
            "tokenizer": hash_tokenizer_files(run, folder),
            "model.dtype": run.config.model.dtype,
        }
        made = keep(
            outcome_file(run, kind, name),
            depends,
            "outcomes",
            lambda: [outcome.as_json() for outcome in outcomes(run, models, name)],
        )
        return [Outcome.from_json(item) for item in made]

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
