"""Suites of evaluations on the models of a run: each is measured once, and one table holds all rows.

The rows of a suite for one model are cached in evals/rows/SUITE/MODEL.json, beside the fingerprints of the values that
`measure` receives where every layout option has its default. They are measured again only if a fingerprint changes.
The table omits stale rows.
"""

import dataclasses
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxforget.config import with_default_layout
from jaxforget.config.schema import EndpointOptions
from jaxforget.corpus.text import Source
from jaxforget.errors import Preempted, UserError
from jaxforget.evals.catalogue import CATALOGUE, Entry
from jaxforget.evals.rows import COLUMNS, Row, above_control
from jaxforget.evals.suite import MissingInput, ModelReference, RunInputs, Suite, Workspace
from jaxforget.evals.tables import rows_csv, rows_markdown
from jaxforget.files import read_json, write_json, write_text
from jaxforget.lm.model import Model, load
from jaxforget.manifest import changed, fingerprint
from jaxforget.models.adapters import is_adapter
from jaxforget.models.folders import resolve_folder
from jaxforget.processes import wait_for_all
from jaxforget.stages.hashes import describe_endpoint, hash_data, hash_model, hash_source, hash_tokenizer_files
from jaxforget.stages.run import Run
from jaxforget.train.loop import hosts_preempted

ROWS = "rows"  # in evals/
LONGEST = 200  # characters of a value that a fingerprint shows as it is


class Models(Mapping[str, Model]):
    """The models of a run by name, loaded on demand; the last `kept` of them stay in memory."""

    def __init__(self, run: Run, kept: int = 2):
        self._run, self._kept = run, kept
        self.folders = compared_models(run)
        self._loaded: dict[str, Model] = {}

    def __getitem__(self, name: str) -> Model:
        """Return the model `name`, in the run's dtype on the run's mesh."""
        model = self._loaded.pop(name, None)
        if model is None:
            while len(self._loaded) >= self._kept:
                del self._loaded[next(iter(self._loaded))]
            model = self._load(name)
        self._loaded[name] = model
        return model

    def _load(self, name: str) -> Model:
        run, folder = self._run, self.folders[name]
        model = run.config.model
        if self.over_base(name):
            # An adapter of this run shares the arrays of base, which it was trained over.
            return load(folder, model.dtype, run.mesh, attention=model.attention, base=self["base"])
        form = model.base if name == "base" else "full"
        return load(folder, model.dtype, run.mesh, attention=model.attention, form=form)

    def over_base(self, name: str) -> bool:
        """Return True if the model is an adapter that this run trained over base."""
        return name in ("reinforced", "unlearned") and is_adapter(self.folders[name])

    def inputs(self, name: str, key: str = "model") -> dict[str, str]:
        """Return the fingerprints of a model: its weights, tokenizer, dtype and form."""
        run, folder = self._run, self.folders[name]
        found = {
            key: hash_model(run, folder),
            f"{key} tokenizer": hash_tokenizer_files(run, folder),
            "model.dtype": run.config.model.dtype,
        }
        if run.config.model.base != "full" and (self.over_base(name) or name == "base"):
            found["model.base"] = run.config.model.base
        return found

    def __contains__(self, name: object) -> bool:
        return name in self.folders

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)


def compared_models(run: Run) -> dict[str, Path]:
    """Return the folders of the models in the tables, in their order."""
    models = {"base": run.base, "reinforced": run.reinforced, "unlearned": run.unlearned}
    if not run.objective.needs_reinforced:
        del models["reinforced"]
    if run.control is not None:
        models["control"] = run.control
    return models | {name: resolve_folder(place) for name, place in run.config.evals.compare.items()}


@dataclasses.dataclass(frozen=True)
class Measurement:
    """A suite for one model: the values that `measure` receives, and their fingerprints."""

    options: dict[str, Any]
    inputs: dict[str, str]
    workspace: Workspace


def describe(run: Run, models: Models, options: Mapping[str, Any]) -> dict[str, str]:
    """Return the fingerprints of keyword values: contents of sources, files and models, and all other values.

    A workspace has none, since it holds only results of the other values.

    Raises:
      TypeError: a value has no fingerprint.
    """
    found: dict[str, str] = {}
    for key, value in options.items():
        if isinstance(value, ModelReference):
            found |= models.inputs(value.name, key)
        elif not isinstance(value, Workspace):
            text = _describe(run, value)
            found[key] = text if len(text) <= LONGEST else hashlib.sha256(text.encode()).hexdigest()
    return found


def _describe(run: Run, value: Any) -> str:
    if isinstance(value, Source):
        return hash_source(run, value)
    if isinstance(value, Path):
        return hash_data(run, str(value))
    if isinstance(value, EndpointOptions):
        return repr(describe_endpoint(value))
    if isinstance(value, Mapping):
        return repr({str(key): _describe(run, item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return repr([_describe(run, item) for item in value])
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    raise TypeError(f"{value!r}: an option of a suite must be a source, path, model, number, text or list of these")


def run_inputs(run: Run, models: Models, suite: str, name: str) -> RunInputs:
    """Return the inputs of the run for a suite and the model `name`."""
    workspace = Workspace(
        folder=run.evals / suite,
        model=name,
        inputs=models.inputs(name),
        describe=lambda values: describe(run, models, values),
        writes=jax.process_index() == 0,
        wait=wait_for_all,
        say=run.say,
    )
    return RunInputs(
        config=run.config,
        model=name,
        models=tuple(models),
        target=run.target,
        retained=run.retained,
        heldout=run.heldout,
        anchors=run.anchors,
        workspace=workspace,
    )


def prepare(run: Run, models: Models, entry: Entry, suite: Suite, name: str) -> Measurement:
    """Gather the values that `measure` receives; raise `MissingInput` if one is missing."""
    inputs = run_inputs(run, models, entry.name, name)
    options = suite.options(inputs)
    # Layout options change no row, so rows are compared as those of the default layout.
    same = dataclasses.replace(inputs, config=with_default_layout(run.config))
    described = {**models.inputs(name), **describe(run, models, suite.options(same))}
    return Measurement(options, described, inputs.workspace)


def measure_suites(run: Run, chosen: Sequence[Entry], *, named: Sequence[str] = ()) -> list[Row]:
    """Measure the rows of `chosen` that are missing or stale, and write the table of all suites.

    Args:
      run: the run.
      chosen: the suites.
      named: names of suites that the user asked for: a missing input of one of them is an error, while another suite is
        left out with a message.

    Returns:
      All rows of the table.

    Raises:
      UserError: an input of a suite is missing or unfit. Rows that were measured before are kept, also in the table.
    """
    models = Models(run)
    ready = []
    for entry in chosen:
        suite = entry.load()
        if reason := missing_input(run, models, entry, suite):
            if entry.name in named:
                raise UserError(f"suite={entry.name}: {reason}")
            run.say(f"{entry.name}: left out: {reason}")
        else:
            ready.append((entry, suite))
    try:
        # The outer loop is over models, because loading one may take longer than measuring it.
        for name in models:
            for entry, suite in ready:
                measure_model(run, models, entry, suite, name)
    finally:
        rows = write_table(run, models)
    return rows


def missing_input(run: Run, models: Models, entry: Entry, suite: Suite) -> str | None:
    """Return the reason why a suite cannot be measured; None if it can."""
    name = next(name for name in models if name not in suite.excluded_models)
    inputs = run_inputs(run, models, entry.name, name)
    try:
        suite.options(inputs)
    except MissingInput as missing:
        return str(missing)
    return suite.disabled_reason(inputs)


def preview_suites(run: Run, chosen: Sequence[Entry]) -> None:
    """Say for each suite what an endpoint would be asked, or that none is asked; measure nothing."""
    models = Models(run)
    for entry in chosen:
        suite = entry.load()
        inputs = run_inputs(run, models, entry.name, next(iter(models)))
        try:
            suite.options(inputs)
        except MissingInput as missing:
            run.say(f"{entry.name}: left out: {missing}")
            continue
        if suite.preview is None:
            run.say(f"{entry.name}: {suite.summary}; asks no endpoint")
        else:
            run.say(suite.preview(inputs))


def measure_model(run: Run, models: Models, entry: Entry, suite: Suite, name: str) -> None:
    """Measure a suite for one model, unless its cached rows are up to date."""
    if name in suite.excluded_models:
        return
    measurement, path = prepare(run, models, entry, suite, name), rows_file(run, entry.name, name)
    cached = read_rows(path)
    workspace = measurement.workspace
    complete = cached is not None and all((workspace.folder / file).is_file() for file in cached["files"])
    wait_for_all(f"{entry.name}, {name}: checked")  # before a process writes what the others check
    if complete and cached["inputs"] == measurement.inputs:
        run.say(f"  {name}: {entry.name}: up to date")
        return
    if hosts_preempted():
        raise Preempted(f"{entry.name}, {name}")
    began = time.perf_counter()
    options = {
        key: models[value.name] if isinstance(value, ModelReference) else value
        for key, value in measurement.options.items()
    }
    try:
        rows = [dataclasses.replace(row, model=name) for row in suite.measure(models[name], **options)]
    except MissingInput as missing:
        # A model to compare with may lack what the others have; they are measured all the same.
        run.say(f"  {name}: {entry.name}: left out: {missing}")
        rows = []
    seconds = time.perf_counter() - began
    if workspace.writes:
        write_json(
            path,
            {
                "fingerprint": fingerprint(measurement.inputs),
                "inputs": measurement.inputs,
                "seconds": round(seconds, 3),
                "files": workspace.written,
                "rows": [row.as_json() for row in rows],
                "items": [None if row.items is None else [row.items_of, *row.items] for row in rows],
            },
        )
    wait_for_all(f"{entry.name}, {name}: written")
    run.say(f"  {name}: {entry.name}: {len(rows)} rows, {seconds:.1f} s")


def rows_file(run: Run, suite: str, name: str) -> Path:
    """Return the path of the cached rows of a suite for the model `name`."""
    return run.evals / ROWS / suite / f"{name}.json"


def read_rows(path: Path) -> dict[str, Any] | None:
    """Return cached rows with their inputs; None if the file is missing or is no such file."""
    value = read_json(path) if path.is_file() else None
    kinds = {"inputs": dict, "rows": list, "items": list, "files": list}
    if not isinstance(value, dict) or not all(isinstance(value.get(key), kind) for key, kind in kinds.items()):
        return None
    rows = []
    for row, items in zip(value["rows"], value["items"], strict=True):
        each = {} if items is None else {"items": tuple(items[1:]), "items_of": items[0]}
        rows.append(Row(**{name: row[name] for name in COLUMNS}, **each))
    return {**value, "rows": rows}


def write_table(run: Run, models: Models) -> list[Row]:
    """Write evals/summary.json, .md and .csv from all cached rows that are up to date; say which are stale."""
    tables: dict[str, list[Row]] = {}
    for entry in CATALOGUE:
        if not (run.evals / ROWS / entry.name).is_dir():
            continue
        suite = entry.load()
        found = {}
        for name in models:
            cached = None if name in suite.excluded_models else read_rows(rows_file(run, entry.name, name))
            if cached is None:
                continue
            try:
                old = changed(cached["inputs"], prepare(run, models, entry, suite, name).inputs)
            except MissingInput as missing:
                run.say(f"  left out of the table: {entry.name} of {name}: {missing}")
                continue
            if old:
                run.say(f"  left out of the table: {entry.name} of {name}, since {', '.join(old)} changed")
                continue
            found[name] = cached["rows"]
        control = found.get("control", [])
        rows = [
            row
            for name, some in found.items()
            for row in [*some, *(above_control(some, control) if name != "control" else [])]
        ]
        if rows:
            tables[entry.name] = rows
    everything = [row for rows in tables.values() for row in rows]
    if jax.process_index() == 0:
        write_text(run.evals / "summary.md", rows_markdown(tables))
        write_text(run.evals / "summary.csv", rows_csv(everything))
        write_json(run.evals / "summary.json", {"rows": [row.as_json() for row in everything]})
    wait_for_all("table written")
    return everything
