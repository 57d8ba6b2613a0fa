"""Everything that a page shows of a run, read once; and several runs put side by side."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxforget.corpus.dictionary import Anchors
from jaxforget.evals.rows import Row
from jaxforget.report import artefacts

SHARED = ("base", "reinforced", "control")


@dataclasses.dataclass(frozen=True)
class RunData:
    """The files of one run; None or empty where a file is missing.

    Attributes:
      name: of the run on the page; distinct among the runs of one page.
      summary: evidence of all its models.
      suites: (metric, convention) -> name of the suite.
    """

    name: str
    folder: Path
    summary: tuple[Row, ...] | None
    suites: Mapping[tuple[str, str], str]
    curve: tuple[artefacts.CurveRow, ...] | None
    metrics: dict[str, list[dict[str, float]]] | None
    manifest: dict[str, Any] | None
    config: tuple[str, dict[str, Any]] | None
    dynamics: tuple[artefacts.Dynamics, ...] | None
    completions: tuple[artefacts.Completion, ...] | None
    passage: artefacts.Passage | None
    questions: tuple[artefacts.Question, ...] | None
    audit: artefacts.Audit | None
    anchors: Anchors | None
    diagnosis: dict[str, Any] | None


def read_run(folder: Path, name: str | None = None) -> RunData:
    """Read the run in `folder`.

    Raises:
      UserError: a file is malformed; the message names the file and the place.
    """
    dictionary = folder / "anchors.json"
    return RunData(
        name=name or folder.resolve().name,
        folder=folder,
        summary=artefacts.read_summary(folder),
        suites=artefacts.read_suites(folder),
        curve=artefacts.read_curve(folder),
        metrics=artefacts.read_metrics(folder),
        manifest=artefacts.read_manifest(folder),
        config=artefacts.read_config(folder),
        dynamics=artefacts.read_dynamics(folder),
        completions=artefacts.read_completions(folder),
        passage=artefacts.read_passage(folder),
        questions=artefacts.read_questions(folder),
        audit=artefacts.read_audit(folder),
        anchors=Anchors.load(dictionary, keep_all=True) if dictionary.is_file() else None,
        diagnosis=artefacts.read_object(folder / "diagnosis.json"),
    )


def read_runs(folders: Sequence[Path]) -> list[RunData]:
    """Read several runs; runs whose folders have the same name are named by their paths."""
    names = [folder.resolve().name for folder in folders]
    return [
        read_run(folder, name if names.count(name) == 1 else str(folder))
        for folder, name in zip(folders, names, strict=True)
    ]


def column(run: RunData, model: str, runs: Sequence[RunData]) -> str:
    """Return the name of a run's model on the page; on a page of several runs it begins with the run's name."""
    return model if len(runs) == 1 else f"{run.name}: {model}"


def side_by_side(runs: Sequence[RunData]) -> tuple[Row, ...]:
    """Return the evidence of all runs in one table, every model a column.

    A model that runs usually share (base, reinforced, control) has one column for all runs that agree on the figures
    which they have in common.
    """
    if len(runs) == 1:
        return runs[0].summary or ()
    columns: dict[str, dict[tuple[str, str], Row]] = {}
    for run in runs:
        rows = run.summary or ()
        for model in dict.fromkeys(row.model for row in rows):
            mine = {(row.metric, row.convention): row for row in rows if row.model == model}
            if model in SHARED and (model not in columns or _agree(columns[model], mine)):
                columns[model] = {**mine, **columns.get(model, {})}
            else:
                name = f"{run.name}: {model}"
                columns[name] = {key: dataclasses.replace(row, model=name) for key, row in mine.items()}
    return tuple(row for rows in columns.values() for row in rows.values())


def _agree(one: Mapping[tuple[str, str], Row], other: Mapping[tuple[str, str], Row]) -> bool:
    """Return True if two models have measures in common, and equal values for all of them."""
    common = one.keys() & other.keys()
    return bool(common) and all(one[key].value == other[key].value for key in common)
