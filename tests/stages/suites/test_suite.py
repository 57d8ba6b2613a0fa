"""Suites: chosen by name, measured once, kept as they come, and one table of what still holds."""

import csv
import dataclasses
import json
import shutil

import pytest

from jaxforget.cli.chain import SUITES as LISTED
from jaxforget.config import load_config
from jaxforget.errors import UserError
from jaxforget.evals.evidence import evidence
from jaxforget.stages.run import Run
from jaxforget.stages.suites.catalogue import SUITES
from jaxforget.stages.suites.suite import Suite, chosen, measure


@pytest.fixture
def run(tiny_run, tiny_world, tmp_path, monkeypatch):
    """A copy of a finished run with a control; `run.told` is what was said of it."""
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    config = load_config(copy, [f"out={copy}", f"model.control={tiny_world / 'control'}"])
    told = []
    monkeypatch.setattr(Run, "say", lambda self, text: told.append(text))
    run = Run(config)
    object.__setattr__(run, "told", told)
    return run


def suite(name: str, asked: list[str], **more) -> Suite:
    """A suite that notes whom it asks, and gives each as many rows as its name has letters."""

    def rows(run, models, model):
        asked.append(f"{name} {model}")
        return [evidence(f"{name}_{i}", "by hand", "?", i + 0.5, 3, (i, i + 1)) for i in range(len(name))]

    values = {"lacks": lambda run: None, "inputs": lambda run: {"data": "1"}, "measure": rows} | more
    return Suite(name, f"what {name} says", **values)


def table(run) -> list[tuple]:
    rows = json.loads((run.evals / "summary.json").read_text())["rows"]
    return [(row["metric"], row["model"]) for row in rows]


MODELS = ["base", "reinforced", "unlearned", "control"]


def test_names_and_groups_and_order():
    a, b, c = (suite(name, [], groups=groups) for name, groups in (("a", ()), ("b", ("g",)), ("c", ("g", "h"))))
    assert chosen([a, b, c], "all") == [a, b, c]
    assert chosen([a, b, c], "g") == [b, c]
    assert chosen([a, b, c], "c, a") == [a, c]
    assert chosen([a, b, c], "h,c") == [c]
    with pytest.raises(UserError, match="suite=x: no such suite; there are all, a, b, c, g, h"):
        chosen([a, b, c], "a,x")


def test_the_command_line_lists_them_all():
    names = [suite.name for suite in SUITES]
    assert len(set(names)) == len(names)
    groups = {group for suite in SUITES for group in suite.groups}
    assert sorted(LISTED) == sorted({*names, *groups})
    assert [name for name in LISTED if name in names] == names


def test_each_model_is_measured_once_and_stands_in_the_table(run):
    asked: list[str] = []
    both = [suite("x", asked), suite("yy", asked, only=("unlearned", "control"))]
    measure(run, both, both)
    assert asked == ["x base", "x reinforced", "x unlearned", "yy unlearned", "x control", "yy control"]
    assert table(run) == [("x_0", m) for m in MODELS] + [
        (f"yy_{i}", m) for m in ("unlearned", "control") for i in (0, 1)
    ]
    with (run.evals / "summary.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["metric"], line["model"]) for line in lines] == table(run)
    assert lines[-1] == {
        "metric": "yy_1", "convention": "by hand", "model": "control", "value": "1.5", "low": "1.0", "high": "2.0",
        "n": "3",
    }  # fmt: skip
    page = (run.evals / "summary.md").read_text()
    assert "| unlearned | 0.5 (0 to 1) | 1.5 (1 to 2) |" in page
    assert "| base | 0.5 (0 to 1) |" in page
    measure(run, both, both)
    assert len(asked) == 6, "a rerun measured again"


def test_a_change_measures_again_only_what_it_concerns(run, tiny_world):
    asked: list[str] = []
    alone, beside = suite("x", asked), suite("y", asked, against=("control",))
    measure(run, [alone, beside], [alone, beside])
    asked.clear()
    # Other data of one suite.
    other = dataclasses.replace(alone, inputs=lambda run: {"data": "2"})
    measure(run, [other, beside], [beside])
    assert asked == []
    assert {metric for metric, _ in table(run)} == {"y_0"}, "rows of other data stayed in the table"
    assert any("x of base, since data changed" in line for line in run.told)
    measure(run, [other, beside], [other, beside])
    assert asked == [f"x {name}" for name in MODELS]
    # Another tokenizer of the control: its own rows, and all that are read against it.
    asked.clear()
    control = shutil.copytree(tiny_world / "control", run.folder / "other")
    path = control / "tokenizer_config.json"
    path.write_text(path.read_text() + " ")
    moved = Run(load_config(run.folder, [f"out={run.folder}", f"model.control={control}"]))
    measure(moved, [other, beside], [other, beside])
    assert asked == ["y base", "y reinforced", "y unlearned", "x control", "y control"]


def test_what_was_measured_before_a_fault_is_kept(run):
    asked: list[str] = []
    good = suite("x", asked)
    working = good.measure

    def fail(run, models, model):
        if model == "unlearned":
            raise UserError("line 3: no field 'answer'")
        return working(run, models, model)

    with pytest.raises(UserError, match="line 3"):
        measure(run, [good], [dataclasses.replace(good, measure=fail)])
    assert table(run) == [("x_0", "base"), ("x_0", "reinforced")]
    measure(run, [good], [good])
    assert asked == ["x base", "x reinforced", "x unlearned", "x control"]


def test_a_suite_without_its_data_is_told_or_refused(run):
    asked: list[str] = []
    whole, part = suite("x", asked), suite("y", asked, lacks=lambda run: "evals.y is not set; it names a file")
    measure(run, [part, whole], [part, whole])
    assert asked == [f"x {name}" for name in MODELS]
    assert "y: left out: evals.y is not set; it names a file" in run.told
    with pytest.raises(UserError, match=r"suite=y: evals\.y is not set; it names a file"):
        measure(run, [part, whole], [part, whole], named=["y"])


def test_figures_of_two_conventions_share_no_column(run):
    asked: list[str] = []

    def rows(run, models, model):
        return [evidence("m", convention, model, 0.25, 2) for convention in ("one way", "the other")]

    two = suite("x", asked, measure=rows)
    measure(run, [two], [two])
    page = (run.evals / "summary.md").read_text()
    assert "| | m [1] | m [2] |" in page
    assert "| base | 0.25 | 0.25 |" in page
    assert "[1] one way; n = 2" in page
    assert "[2] the other; n = 2" in page


def test_a_damaged_file_is_measured_again(run):
    asked: list[str] = []
    one = suite("x", asked)
    measure(run, [one], [one])
    (run.evals / "rows" / "x" / "base.json").write_text("[]")
    measure(run, [one], [one])
    assert asked[-1] == "x base"
    assert len(asked) == 5
