"""Suites on a run: measured once, cached with the fingerprints of their values, and one table of what is up to date."""

import dataclasses
import json
import shutil

import pytest

from jaxforget.cli import chain
from jaxforget.config import load_config
from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals import catalogue
from jaxforget.evals.catalogue import CATALOGUE, NAMES, Entry, choose
from jaxforget.evals.rows import make_row
from jaxforget.evals.suite import MissingInput, Suite
from jaxforget.stages import measure
from jaxforget.stages.measure import Models, describe, measure_suites, prepare
from jaxforget.stages.run import Run

MODELS = ["base", "reinforced", "unlearned", "control"]


@pytest.fixture
def run(tiny_run, tiny_world, tmp_path, monkeypatch):
    """A copy of a finished run with a control; `run.said` holds what it says."""
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    shutil.rmtree(copy / "evals" / "rows")
    said = []
    monkeypatch.setattr(Run, "say", lambda self, text, **_: said.append(text))
    run = Run(load_config(copy, [f"out={copy}", f"model.control={tiny_world / 'control'}"]))
    object.__setattr__(run, "said", said)
    return run


@pytest.fixture
def suites(monkeypatch):
    """(name -> suite) replaces the catalogue; `measured` notes each call, and each suite gives two rows."""
    measured = []

    def replace(**given):
        known = {}
        for name, change in given.items():

            def rows(model, *, called=name, **options):
                measured.append(f"{called} {model.folder.name}")
                return [make_row(f"{called}_{i}", "by hand", "?", i + 0.5, 3, (i, i + 1)) for i in range(2)]

            fields = {"measure": rows, "options": lambda run: {"data": 1}} | change
            known[name] = Suite(f"what {name} measures", **fields)
        monkeypatch.setattr(Entry, "load", lambda self: known[self.name])
        entries = tuple(Entry(name) for name in known)
        monkeypatch.setattr(measure, "CATALOGUE", entries)
        return entries

    replace.measured = measured
    return replace


def table(run) -> list[tuple]:
    rows = json.loads((run.evals / "summary.json").read_text())["rows"]
    return [(row["metric"], row["model"]) for row in rows]


def test_names_groups_and_order():
    assert choose("all") == CATALOGUE
    attacks = ["membership", "prompting", "soft_prompt", "weights", "relearning"]
    assert [entry.name for entry in choose("robustness")] == attacks
    assert [entry.name for entry in choose("weights, muse")] == ["muse", "weights"]
    with pytest.raises(UserError, match="suite=x: no such suite; there are all, probability"):
        choose("muse,x")


def test_every_entry_of_the_catalogue_is_a_suite_and_the_command_line_knows_it():
    assert len(set(NAMES)) == len(NAMES)
    for entry in CATALOGUE:
        assert isinstance(entry.load(), Suite)
    assert chain.NAMES is catalogue.NAMES


def test_each_model_is_measured_once_and_all_rows_are_in_the_table(run, suites):
    both = suites(x={}, y={"excluded_models": ("base", "reinforced")})
    measure_suites(run, both)
    assert suites.measured == ["x base", "x reinforced", "x unlearned", "y unlearned", "x control", "y control"]
    wanted = [("x", model) for model in MODELS] + [("y", "unlearned"), ("y", "control")]
    assert table(run) == [(f"{name}_{i}", model) for name, model in wanted for i in (0, 1)]
    assert "| unlearned | 0.5 (0 to 1) | 1.5 (1 to 2) |" in (run.evals / "summary.md").read_text()
    assert len((run.evals / "summary.csv").read_text().splitlines()) == 1 + len(table(run))
    measure_suites(run, both)
    assert len(suites.measured) == 6, "a second run measures nothing"


def test_a_changed_value_measures_again_only_its_suite(run, suites, tiny_world):
    against = {"options": lambda run: {"data": 1, "control": run.reference("control")}}
    measure_suites(run, suites(x={}, y=against))
    suites.measured.clear()
    both = suites(x={"options": lambda run: {"data": 2}}, y=against)
    measure_suites(run, both[1:])
    assert suites.measured == []
    assert {metric for metric, _ in table(run)} == {"y_0", "y_1"}, "rows of other data are not in the table"
    assert any("x of base, since data changed" in line for line in run.said)
    measure_suites(run, both)
    assert suites.measured == [f"x {name}" for name in MODELS]
    # Another tokenizer of the control changes its own rows, and all that are measured against it.
    suites.measured.clear()
    control = shutil.copytree(tiny_world / "control", run.folder / "other")
    path = control / "tokenizer_config.json"
    path.write_text(path.read_text() + " ")
    moved = Run(load_config(run.folder, [f"out={run.folder}", f"model.control={control}"]))
    measure_suites(moved, both)
    assert suites.measured == ["y base", "y reinforced", "y unlearned", "x other", "y other"]


def test_rows_stay_when_only_a_layout_option_changes(run, suites):
    """A smaller batch, which the advice after a lack of memory names, changes no figure."""
    received = []

    def measured(model, *, batch, tile, count):
        received.append((batch, tile, count))
        return [make_row("x_0", "by hand", "?", 0.5, 3)]

    def gather(run):
        evals = run.config.evals
        return {"batch": evals.batch, "tile": run.config.targets.tile, "count": evals.relearn_batch}

    one = suites(x={"measure": measured, "options": gather})
    measure_suites(run, one)
    assert received == [(8, 64, 16)] * 4, "a suite receives the values that are set"
    words = [f"out={run.folder}", f"model.control={run.config.model.control}", "evals.batch=2", "targets.tile=32"]
    for more, count in ([], 4), (["evals.relearn_batch=8"], 8):
        measure_suites(Run(load_config(run.folder, [*words, *more])), one)
        assert len(received) == count
        assert table(run) == [("x_0", model) for model in MODELS]
    assert received[4:] == [(2, 32, 8)] * 4


def test_fingerprints_follow_contents_and_values(run, tmp_path):
    models = Models(run)
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").write_text("one")
    (tmp_path / "c.txt").write_text("two")

    def of(value):
        return describe(run, models, {"data": value})

    for kind in (Source, lambda place: place):
        assert of(kind(tmp_path / "a.txt")) == of(kind(tmp_path / "b.txt"))
        assert of(kind(tmp_path / "a.txt")) != of(kind(tmp_path / "c.txt"))
    assert of(Source("tfds:x", "text", "train")) != of(Source("tfds:x", "text", "test"))
    assert of(Source("tfds:x", "text")) != of(Source("tfds:x", "body"))
    assert of((1, "2")) != of(("1", 2))
    assert of({"k": tmp_path / "a.txt"}) == of({"k": tmp_path / "b.txt"})
    with pytest.raises(TypeError, match="must be a source, path, model"):
        of(object())


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ("memorization,membership,prompting,relearning,completion,audit", "corpus.split=test"),
        ("memorization,membership,prompting,relearning,completion,audit", "corpus.field=body"),
        ("relearning", "retain.split=test"),
        ("relearning", "retain.field=body"),
        ("completion", "retain.split=test"),
        ("audit,prompting,completion", "anchors.filter=false"),
    ],
)
def test_every_suite_depends_on_the_options_that_its_text_is_read_with(run, tiny_world, names, word):
    """A change of each option makes the rows of each suite stale that reads that text."""
    words = [f"out={run.folder}", f"retain.path={tiny_world / 'retain'}", f"evals.nonmembers={tiny_world / 'heldout'}"]
    words += ["evals.heldout=null"]
    if "audit" not in names or "anchors" not in word:
        words.append(f"model.control={tiny_world / 'control'}")
    before, after = (Run(load_config(run.folder, [*words, *more])) for more in ([], [word]))
    for entry in choose(names):
        suite = entry.load()
        inputs = [prepare(some, Models(some), entry, suite, "unlearned").inputs for some in (before, after)]
        assert inputs[0] != inputs[1], f"{entry.name} keeps stale rows when {word}"


def test_rows_that_were_measured_before_an_error_are_kept(run, suites):
    def fail(model, **options):
        suites.measured.append(model.folder.name)
        if model.folder.name == "unlearned":
            raise UserError("line 3: no field 'answer'")
        return [make_row("x_0", "by hand", "?", 0.5, 3)]

    with pytest.raises(UserError, match="line 3"):
        measure_suites(run, suites(x={"measure": fail}))
    assert table(run) == [("x_0", "base"), ("x_0", "reinforced")]
    suites.measured.clear()
    measure_suites(run, suites(x={}))
    assert suites.measured == ["x unlearned", "x control"]


def test_a_suite_without_its_input_is_left_out_or_refused(run, suites):
    def missing(run):
        raise MissingInput("evals.y is not set; it names a file")

    both = suites(y={"options": missing}, x={})
    measure_suites(run, both)
    assert suites.measured == [f"x {name}" for name in MODELS]
    assert "y: left out: evals.y is not set; it names a file" in run.said
    with pytest.raises(UserError, match=r"suite=y: evals\.y is not set; it names a file"):
        measure_suites(run, both, named=["y"])


def test_an_input_that_is_unset_later_takes_the_rows_out_of_the_table(run, suites):
    def missing(run):
        raise MissingInput("evals.x is not set")

    measure_suites(run, suites(x={}))
    measure_suites(run, suites(x={"options": missing}))
    assert table(run) == []
    assert "  left out of the table: x of base: evals.x is not set" in run.said


def test_a_damaged_or_deleted_file_is_measured_again(run, suites):
    def page(model, *, workspace):
        suites.measured.append(model.folder.name)
        workspace.write(f"{workspace.model}.json", {})
        return [make_row("x_0", "by hand", "?", 0.5, 3)]

    one = suites(x={"measure": page, "options": lambda run: {"workspace": run.workspace}})
    measure_suites(run, one)
    (run.evals / "rows" / "x" / "base.json").write_text("[]")
    (run.evals / "x" / "control.json").unlink()
    suites.measured.clear()
    measure_suites(run, one)
    assert suites.measured == ["base", "control"]


def test_items_are_compared_with_the_controls_in_the_table(run, suites):
    def items(model, **options):
        value = {"control": 0.25}.get(model.folder.name, 0.75)
        return [dataclasses.replace(make_row("leak", "c", "?", value, 2), items=(value, value))]

    one = suites(x={"measure": items})
    measure_suites(run, one)
    measure_suites(run, one)
    rows = json.loads((run.evals / "summary.json").read_text())["rows"]
    above = {row["model"]: row["value"] for row in rows if row["metric"] == "leak_above_control"}
    assert above == {"base": 0.5, "reinforced": 0.5, "unlearned": 0.5}
    assert all(set(row) == {"metric", "convention", "model", "value", "low", "high", "n"} for row in rows)
