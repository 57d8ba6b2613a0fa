"""The suites that `jaxforget eval CONFIG suite=NAME` knows, in the order of the table: what each needs and measures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals import muse as muse_eval
from jaxforget.evals import tofu as tofu_eval
from jaxforget.evals.benchmarks import BENCHMARKS
from jaxforget.evals.memorization import PASSAGE
from jaxforget.evals.probes import Prompts, load_probes
from jaxforget.lm.completion import completer
from jaxforget.stages.hashes import hash_data, hash_questions, hash_source
from jaxforget.stages.questions import questions_of
from jaxforget.stages.run import Run
from jaxforget.stages.suites import loaded
from jaxforget.stages.suites.attacks import ROBUSTNESS
from jaxforget.stages.suites.audit import AUDIT
from jaxforget.stages.suites.completion import COMPLETION
from jaxforget.stages.suites.probability import summary_rows
from jaxforget.stages.suites.suite import Models, Row, Suite


def _needs(key: str, what: str, *, folder: bool = False) -> Callable[[Run], str | None]:
    """For `Suite.lacks`: the option evals.`key` names `what`, which must be there, as a `folder` if it is said."""

    def lacks(run: Run) -> str | None:
        place = getattr(run.config.evals, key)
        if place is None:
            return f"evals.{key} is not set; it names {what}"
        if folder and Path(place).is_file():
            return f"evals.{key}={place}: is a file; it names {what}"
        # A name such as tfds:NAME is no path, and is found missing when it is read.
        there = Path(place).exists() or ":" in place
        return None if there else f"evals.{key}={place}: no such file or folder; it names {what}"

    return lacks


def _lacks_questions(run: Run) -> str | None:
    if run.config.evals.probes is None and run.config.evals.heldout is None:
        return "neither evals.probes nor evals.heldout is set; they name questions and general text"
    return None


def _question_inputs(run: Run) -> dict[str, str]:
    config = run.config
    kept = {name: value for name, value in hash_questions(run).items() if name != "evals.prompts"}
    return {**kept, "blocks.length": repr(config.blocks.length), "corpus.field": config.corpus.field}


def _probability(run: Run, models: Models, name: str) -> list[Row]:
    config, model = run.config, models[name]
    # Each model is asked in its own tokens: one to compare with may have another tokenizer.
    questions = questions_of(config, load_probes(config.evals.probes), Prompts(), model.tokenizer)
    return summary_rows(name, model, questions, config, config.blocks.length)


def _choice_inputs(run: Run) -> dict[str, str]:
    return {"evals.choices": hash_data(run, run.config.evals.choices)}


def _choices(run: Run, models: Models, name: str) -> list[Row]:
    place = Path(run.config.evals.choices)
    if not place.is_dir():
        return loaded.multiple_choice(models[name], place)
    files = sorted(place.glob("*.jsonl"))
    if not files:
        raise UserError(f"evals.choices={place}: holds no .jsonl file; name one, or a folder of some")
    found = {path.stem: loaded.multiple_choice(models[name], path) for path in files}
    return [{**row, "metric": f"{stem}_{row['metric']}"} for stem, rows in found.items() for row in rows]


def _names(listed: str) -> list[str]:
    return [name.strip() for name in listed.split(",") if name.strip()]


def _lacks_benchmarks(run: Run) -> str | None:
    evals = run.config.evals
    for name in _names(evals.benchmarks):
        if name not in BENCHMARKS:
            raise UserError(f"evals.benchmarks: no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    return _needs("tfds", "the data folder of tensorflow-datasets", folder=True)(run)


def _benchmark_inputs(run: Run) -> dict[str, str]:
    evals = run.config.evals
    data = {
        f"benchmark {name}": hash_data(run, str(Path(evals.tfds) / BENCHMARKS[name].dataset))
        for name in _names(evals.benchmarks)
    }
    return {**data, "evals.benchmark_documents": repr(evals.benchmark_documents)}


def _benchmarks(run: Run, models: Models, name: str) -> list[Row]:
    evals = run.config.evals
    given = {"folder": evals.tfds, "limit": evals.benchmark_documents}
    return [row for b in _names(evals.benchmarks) for row in loaded.benchmark(models[name], b, **given)]


def _lacks_tasks(run: Run) -> str | None:
    if not run.config.evals.tasks:
        return "evals.tasks is not set; it names tasks of lm-evaluation-harness, as hellaswag,arc_easy"
    if run.config.evals.tasks_folder is None:
        return None
    return _needs("tasks_folder", "a folder of YAML files that describe tasks", folder=True)(run)


def _task_inputs(run: Run) -> dict[str, str]:
    evals = run.config.evals
    described = {} if evals.tasks_folder is None else {"evals.tasks_folder": hash_data(run, evals.tasks_folder)}
    return {**described, "evals.tasks": evals.tasks, "evals.benchmark_documents": repr(evals.benchmark_documents)}


def _tasks(run: Run, models: Models, name: str) -> list[Row]:
    evals = run.config.evals
    given = {"folder": evals.tasks_folder, "limit": evals.benchmark_documents}
    return loaded.harness(models[name], _names(evals.tasks), **given)


def _muse_inputs(run: Run) -> dict[str, str]:
    evals = run.config.evals
    return {"evals.muse": hash_data(run, evals.muse), "evals.auc_control": repr(evals.auc_control)}


def _muse(run: Run, models: Models, name: str) -> list[Row]:
    evals = run.config.evals
    given = {"auc_control": evals.auc_control}
    if evals.auc_control is None and "control" in models:
        given = {"control": models["control"]}
    return _both(loaded.muse, muse_eval.CONVENTIONS, models, name, evals.muse, **given)


def _tofu_inputs(run: Run) -> dict[str, str]:
    evals = run.config.evals
    return {"evals.tofu": hash_data(run, evals.tofu), "evals.tofu_template": evals.tofu_template}


def _tofu(run: Run, models: Models, name: str) -> list[Row]:
    evals = run.config.evals
    control = models.get("control")
    conventions = tuple(tofu_eval.CONVENTIONS)
    return _both(loaded.tofu, conventions, models, name, evals.tofu, control=control, template=evals.tofu_template)


def _both(
    suite: Callable[..., list[Row]], conventions: tuple[str, ...], models: Models, name: str, data: str, **given: Any
) -> list[Row]:
    """A suite under each of its conventions; what they ask alike is generated once."""
    model = models[name]
    complete = loaded.remembered(completer(model))
    return [
        row
        for convention in conventions
        for row in suite(model, data, convention=convention, complete=complete, **given)
    ]


def _passage_inputs(run: Run) -> dict[str, str]:
    config = run.config
    return {
        "corpus.path": hash_source(run, run.target),
        "evals.passages": repr(config.evals.passages),
        "blocks.length": repr(config.blocks.length),
    }


def _passages(run: Run) -> dict[str, Any]:
    """How the target is cut into passages."""
    config = run.config
    length = min(PASSAGE, config.blocks.length)
    return {"length": length, "limit": config.evals.passages}


def _memorization(run: Run, models: Models, name: str) -> list[Row]:
    return loaded.memorization(models[name], run.target, **_passages(run))


def _holdout(run: Run) -> Source:
    """Return the text of the target's kind that no model read."""
    return Source(run.config.evals.holdout, run.config.corpus.field)


def _membership_inputs(run: Run) -> dict[str, str]:
    return {**_passage_inputs(run), "evals.holdout": hash_source(run, _holdout(run))}


def _membership(run: Run, models: Models, name: str) -> list[Row]:
    control = models["control"] if "control" in models and name != "control" else None
    return loaded.membership(models[name], run.target, holdout=_holdout(run), control=control, **_passages(run))


PROBABILITY = Suite(
    "probability",
    "evals.probes by probability, perplexity of evals.heldout",
    _lacks_questions,
    _question_inputs,
    _probability,
)
SUITES: tuple[Suite, ...] = (
    PROBABILITY,
    Suite(
        "multiple_choice",
        "your own multiple choice",
        _needs("choices", "a .jsonl file of documents, or a folder of such"),
        _choice_inputs,
        _choices,
    ),
    Suite(
        "benchmarks",
        "ARC, BoolQ, HellaSwag, OpenBookQA, PIQA, WinoGrande, zero-shot",
        _lacks_benchmarks,
        _benchmark_inputs,
        _benchmarks,
    ),
    Suite("harness", "tasks of lm-evaluation-harness", _lacks_tasks, _task_inputs, _tasks),
    Suite(
        "muse",
        "MUSE under both conventions",
        _needs("muse", "the folder of MUSE's files", folder=True),
        _muse_inputs,
        _muse,
        against=("control",),
    ),
    Suite(
        "tofu",
        "TOFU under both conventions",
        _needs("tofu", "the folder of TOFU's four .jsonl files", folder=True),
        _tofu_inputs,
        _tofu,
        against=("control",),
    ),
    Suite(
        "memorization",
        "how much of the target's passages comes back, and how likely they are",
        lambda run: None,
        _passage_inputs,
        _memorization,
    ),
    Suite(
        "membership",
        "whether the target is told from text that no model read",
        _needs("holdout", "text of the target's kind that no model read"),
        _membership_inputs,
        _membership,
        groups=("robustness",),
        against=("control",),
    ),
    *ROBUSTNESS,
    COMPLETION,
    AUDIT,
)
