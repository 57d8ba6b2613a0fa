"""The evidence: suites of evaluations on the models of a run, each kept once it is measured, and one table of all.

A suite's rows of one model lie in evals/rows/SUITE/MODEL.json beside what they depend on. Where that is what it was,
nothing is measured again: a rerun goes on where the last one stopped. The table holds only rows that are still true.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxforget.errors import UserError
from jaxforget.evals.evidence import evidence_csv, evidence_markdown
from jaxforget.files import read_json, write_json, write_text
from jaxforget.lm.model import Model, load
from jaxforget.manifest import changed, fingerprint
from jaxforget.models.adapters import is_adapter
from jaxforget.models.folders import resolve_folder
from jaxforget.stages.hashes import hash_model, hash_tokenizer_files
from jaxforget.stages.run import Run, wait_for_all
from jaxforget.train.loop import Preempted, hosts_preempted

ROWS = "rows"  # in evals/
Row = dict[str, Any]


class Models(Mapping[str, Model]):
    """The models of a run by name, loaded when they are asked for; the last `keep` stay in memory."""

    def __init__(self, run: Run, keep: int = 2):
        self._run, self._keep = run, keep
        self.folders = compared(run)
        self._loaded: dict[str, Model] = {}

    def __getitem__(self, name: str) -> Model:
        """The model `name`, in the run's dtype on the run's mesh."""
        model = self._loaded.pop(name, None)
        if model is None:
            while len(self._loaded) >= self._keep:
                del self._loaded[next(iter(self._loaded))]
            model = self._load(name)
        self._loaded[name] = model
        return model

    def _load(self, name: str) -> Model:
        run, folder = self._run, self.folders[name]
        model = run.config.model
        if _over_base(name, folder):
            # An adapter that this run trained stands over base as it then stood; their arrays are shared.
            return load(folder, model.dtype, run.mesh, attention=model.attention, base=self["base"])
        form = model.base if name == "base" else "full"
        return load(folder, model.dtype, run.mesh, attention=model.attention, form=form)

    def __contains__(self, name: object) -> bool:
        return name in self.folders

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)


def _over_base(name: str, folder: Path) -> bool:
    return name in ("reinforced", "unlearned") and is_adapter(folder)


@dataclasses.dataclass(frozen=True)
class Suite:
    """One evaluation of the models of a run.

    name: what it is called on the command line. says: in a few words, what it measures.
    groups: names that stand for it and others, beside "all".
    lacks: None, or what is missing to run it, in words that name the option to set.
    inputs: what its rows depend on beside the models, as name -> hash or value.
    measure: rows of the model of that name; they are cached.
    against: models whose weights the rows depend on too, where the run has them.
    only: the models that are asked; empty for all. without: those that are not.
    leaves: what it writes beside its rows of a model, which must stand where they are not measured again.
    barred: None, or what else is missing to measure it, which a dry run can do without.
    preview: for a dry run, what it would ask an endpoint; None where it asks none.
    """

    name: str
    says: str
    lacks: Callable[[Run], str | None]
    inputs: Callable[[Run], Mapping[str, str]]
    measure: Callable[[Run, Models, str], list[Row]]
    groups: tuple[str, ...] = ()
    against: tuple[str, ...] = ()
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    leaves: Callable[[Run, str], Sequence[Path]] = lambda run, name: ()
    barred: Callable[[Run], str | None] = lambda run: None
    preview: Callable[[Run, Models], str] | None = None

    def asked(self, models: Models) -> list[str]:
        """Names of the models that this suite asks."""
        return [name for name in models if (not self.only or name in self.only) and name not in self.without]


def compared(run: Run) -> dict[str, Path]:
    """The models of the tables, in their order."""
    models = {"base": run.base, "reinforced": run.reinforced, "unlearned": run.unlearned}
    if run.control is not None:
        models["control"] = run.control
    return models | {name: resolve_folder(place) for name, place in run.config.evals.compare.items()}


def chosen(suites: Sequence[Suite], names: str) -> list[Suite]:
    """The suites that `names`, separated by commas, stand for, in the order of `suites`.

    Raises:
      UserError: a name is none of theirs, of their groups', or "all".
    """
    groups = dict.fromkeys(group for suite in suites for group in suite.groups)
    known = ["all", *dict.fromkeys([*(suite.name for suite in suites), *groups])]
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in known:
            raise UserError(f"suite={name}: no such suite; there are {', '.join(known)}")
    return [s for s in suites if {"all", s.name, *s.groups} & set(wanted)]


def measure(run: Run, suites: Sequence[Suite], chosen: Sequence[Suite], *, named: Sequence[str] = ()) -> list[Row]:
    """Measures what is missing of `chosen`, and writes the table of all `suites`; its rows.

    Args:
      suites: all that there are: rows of the others that still hold stay in the table.
      named: suites that must run: one of them that lacks something is a fault, any other's is told in a line.

    Raises:
      UserError: a suite's data is missing or unfit. What was measured before stands, also in the table.
    """
    models = Models(run)
    ready = []
    for suite in chosen:
        if missing := suite.lacks(run) or suite.barred(run):
            if suite.name in named:
                raise UserError(f"suite={suite.name}: {missing}")
            run.say(f"{suite.name}: left out: {missing}")
        else:
            ready.append(suite)
    try:
        # Model by model: loading one may take longer than asking it.
        for name in models:
            measure_model(run, models, name, ready)
    finally:
        rows = write_table(run, suites, models)
    return rows


def preview(run: Run, suites: Sequence[Suite]) -> None:
    """Says what every suite would ask an endpoint, or that it asks none; measures nothing."""
    models = Models(run)
    for suite in suites:
        if missing := suite.lacks(run):
            run.say(f"{suite.name}: left out: {missing}")
        elif suite.preview is None:
            run.say(f"{suite.name}: {suite.says}; asks no endpoint")
        else:
            run.say(suite.preview(run, models))


def measure_model(run: Run, models: Models, name: str, suites: Sequence[Suite]) -> None:
    """Measures the suites whose rows of the model are not there or no longer hold."""
    for suite in suites:
        if name not in suite.asked(models):
            continue
        inputs, kept = _inputs(run, models, suite, name), _kept(run, suite, name)
        standing = all(path.is_file() for path in suite.leaves(run, name))
        wait_for_all(f"{suite.name}, {name}: judged")  # before any process writes what the others judge by
        if kept is not None and kept["inputs"] == inputs and standing:
            run.say(f"  {name}: {suite.name}: up to date")
            continue
        if hosts_preempted():
            raise Preempted(f"{suite.name}, {name}")
        began = time.perf_counter()
        rows = [{**row, "model": name} for row in suite.measure(run, models, name)]
        seconds = time.perf_counter() - began
        if jax.process_index() == 0:
            kept = {"fingerprint": fingerprint(inputs), "inputs": inputs, "seconds": round(seconds, 3), "rows": rows}
            write_json(_file(run, suite, name), kept)
        wait_for_all(f"{suite.name}, {name}: kept")
        run.say(f"  {name}: {suite.name}: {len(rows)} rows, {seconds:.1f} s")


def _inputs(run: Run, models: Models, suite: Suite, name: str) -> dict[str, str]:
    """All that the rows of a model depend on."""
    inputs = {"model.dtype": run.config.model.dtype, **suite.inputs(run)}
    for other in dict.fromkeys([name, *suite.against]):
        if other in models:
            part = "model" if other == name else other
            inputs[part] = hash_model(run, models.folders[other])
            inputs[f"{part} tokenizer"] = hash_tokenizer_files(run, models.folders[other])
            over_base = _over_base(other, models.folders[other])
            if over_base:
                inputs[f"{part} base"] = hash_model(run, run.base)
            if run.config.model.base != "full" and (over_base or other == "base"):
                inputs["model.base"] = run.config.model.base
    return inputs


def _file(run: Run, suite: Suite, name: str) -> Path:
    return run.evals / ROWS / suite.name / f"{name}.json"


def _kept(run: Run, suite: Suite, name: str) -> dict[str, Any] | None:
    """What was measured of a model before, and what it depended on; None for nothing, or for what is no such file."""
    path = _file(run, suite, name)
    value = read_json(path) if path.is_file() else None
    whole = isinstance(value, dict) and isinstance(value.get("inputs"), dict) and isinstance(value.get("rows"), list)
    return value if whole else None


def keep(path: Path, inputs: Mapping[str, str], name: str, make: Callable[[], list[Any]]) -> list[Any]:
    """The list `name` in the file at `path` where that was made from the same inputs; else `make()`, kept there."""
    value = read_json(path) if path.is_file() else None
    wait_for_all(f"{path}: judged")
    if isinstance(value, dict) and value.get("inputs") == inputs and isinstance(value.get(name), list):
        return value[name]
    made = make()
    if jax.process_index() == 0:
        write_json(path, {"inputs": inputs, name: made})
    wait_for_all(f"{path}: kept")
    return made


def write_table(run: Run, suites: Sequence[Suite], models: Models) -> list[Row]:
    """Writes evals/summary.json, .md and .csv from every suite's rows that still hold; says which no longer do."""
    rows: list[Row] = []
    tables: dict[str, list[Row]] = {}
    for suite in suites:
        for name in suite.asked(models):
            kept = _kept(run, suite, name)
            if kept is None:
                continue
            if old := changed(kept["inputs"], _inputs(run, models, suite, name)):
                run.say(f"  left out of the table: {suite.name} of {name}, since {', '.join(old)} changed")
                continue
            rows += kept["rows"]
            tables.setdefault(suite.name, []).extend(kept["rows"])
    if jax.process_index() == 0:
        write_text(run.evals / "summary.md", evidence_markdown(tables))
        write_text(run.evals / "summary.csv", evidence_csv(rows))
        write_json(run.evals / "summary.json", {"rows": rows})
    wait_for_all("table written")
    return rows
