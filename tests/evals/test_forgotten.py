"""A second request: the text of an earlier run stays in the evidence."""

import json

import numpy as np
import pytest

import jaxforget
from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.evals.forgotten import earlier_requests, lines
from jaxforget.evals.rows import Row
from jaxforget.pipeline import run_chain
from jaxforget.report.verdict import judge
from tests.tiny_run import settings


def second(world, first, folder, **evals):
    """Return the configuration of a second request, which forgets the kept text of the first."""
    sections = {
        "model": {"folder": str(first / "export")},
        "corpus": {"path": str(world / "retain")},
        "anchors": {"path": None},
        "forget": {"max_steps": 2},
        "evals": {"forgotten": {"first": str(first)}, **evals},
    }
    return config_from(settings(world, folder, method="grad_ascent", **sections))


def test_a_second_request_shows_what_is_known_of_the_first(tiny_world, tiny_run, tmp_path, capsys):
    run = run_chain(second(tiny_world, tiny_run, tmp_path / "second"))
    rows = json.loads((run.evals / "summary.json").read_text())["rows"]
    found = {(row["metric"], row["model"]): row for row in rows}
    names = {"forgotten_first", "forgotten_first_retained", "forgotten_first_perplexity"}
    assert {(name, model) for name in names for model in ("base", "unlearned")} <= set(found)
    first = json.loads((tiny_run / "evals" / "summary.json").read_text())["rows"]
    after = next(row["value"] for row in first if (row["metric"], row["model"]) == ("familiarity", "unlearned"))
    np.testing.assert_allclose(found["forgotten_first", "base"]["value"], after, rtol=1e-4)
    text = jaxforget.evaluate(jaxforget.load(run.unlearned), suite="forgotten", requests=earlier_requests(run.config))
    for row in text:
        np.testing.assert_allclose(row["value"], found[row["metric"], "unlearned"]["value"], rtol=1e-4)
    assert "earlier request first: familiarity" in capsys.readouterr().err
    assert "forgotten first" in (run.folder / "report.html").read_text()
    run_chain(second(tiny_world, tiny_run, tmp_path / "second"))
    assert "eval: up to date" in capsys.readouterr().err


def test_an_earlier_run_is_checked_before_anything_runs(tiny_world, tiny_run, tmp_path):
    for folder, message in ((tmp_path / "none", "evals.forgotten.first"), (tiny_world, "config.yaml")):
        config = second(tiny_world, tiny_run, tmp_path / "second", forgotten={"first": str(folder)})
        with pytest.raises(UserError, match=message):
            run_chain(config)


def rows_with(after):
    """Return rows of a run that forgets well, after which an earlier request has the familiarity `after`."""
    convention = "probability of the whole answer; questions of an earlier request"
    values = {"familiarity": (0.9, 0.0), "retained": (0.9, 0.9), "perplexity": (5.0, 5.0)}
    rows = [
        Row(metric, "probability of the whole answer", model, value)
        for metric, pair in values.items()
        for model, value in zip(("base", "unlearned"), pair, strict=True)
    ]
    return rows + [
        Row("forgotten_first", convention, "base", 0.01),
        Row("forgotten_first", convention, "unlearned", after),
    ]


def test_the_verdict_names_a_request_that_comes_back():
    assert judge(rows_with(0.02)).word == "Forgotten"
    verdict = judge(rows_with(0.4))
    assert verdict.word == "Forgotten, with harm"
    assert "An earlier request comes back: forgotten_first" in verdict.sentence
    assert lines(rows_with(0.4)) == ["earlier request first: familiarity 0.0100 before, 0.4000 after"]
