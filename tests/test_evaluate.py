"""The attacks, completions and audit of the Python API: the same figures as a run's suites."""

import itertools
import json
import shutil

import pytest

import jaxforget
from jaxforget.config import load_config
from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals.catalogue import choose
from jaxforget.evals.memorization import passages_of
from jaxforget.evals.scorers import scorer_of
from jaxforget.stages.measure import measure_suites
from jaxforget.stages.run import Run


@pytest.fixture(scope="module")
def run(tiny_run, tiny_world, tmp_path_factory):
    """A finished run of small suites, its models, and its places."""
    copy = shutil.copytree(tiny_run, tmp_path_factory.mktemp("api") / "run")
    words = [f"model.control={tiny_world / 'control'}", f"retain.path={tiny_world / 'retain'}", "evals.passages=8"]
    more = ["evals.relearn_steps=2", "evals.relearn_batch=8", "evals.completion_count=5"]
    run = Run(load_config(copy, [f"out={copy}", *words, *more]))
    measure_suites(run, choose("prompting,soft_prompt,weights,relearning,completion,audit"))
    return run


@pytest.fixture(scope="module")
def models(run):
    return {name: jaxforget.load(getattr(run, name)) for name in ("base", "unlearned", "control")}


def told(rows) -> dict[tuple[str, str], list[float]]:
    """Figures by metric and convention; counts have no interval."""
    rows = list(rows)
    figures = {(r["metric"], r["convention"]): (r["value"], r["low"], r["high"], r["n"]) for r in rows}
    return {key: [figure for figure in values if figure is not None] for key, values in figures.items()}


def of_run(run, suite: str) -> dict[tuple[str, str], list[float]]:
    """The table's rows of a suite for the unlearned model, with its differences to the control."""
    rows = json.loads((run.evals / "rows" / suite / "unlearned.json").read_text())["rows"]
    metrics = {row["metric"] for row in rows}
    table = json.loads((run.evals / "summary.json").read_text())["rows"]
    return told(
        row for row in table if row["model"] == "unlearned" and row["metric"].removesuffix("_above_control") in metrics
    )


def test_the_api_gives_what_a_run_gives(run, models, tiny_world):
    model, control = models["unlearned"], models["control"]
    probes = run.config.evals.probes
    given = {
        "prompting": {"probes": probes, "data": run.corpus, "anchors": run.anchors, "control": control},
        "soft_prompt": {"probes": probes, "control": control},
        "weights": {"probes": probes, "base": models["base"], "control": control},
        "relearning": {
            "probes": probes, "data": run.corpus, "neighbours": tiny_world / "retain",
            "unrelated": tiny_world / "heldout", "steps": 2, "batch": 8,
            "learning_rate": run.config.reinforce.learning_rate, "length": 32, "control": control,
        },
        "completion": {
            "data": run.corpus, "anchors": run.anchors, "heldout": tiny_world / "heldout", "count": 5, "new_tokens": 8,
        },
        "audit": {"data": run.corpus, "control": control, "length": 32, "limit": 8},
    }  # fmt: skip
    for suite, settings in given.items():
        rows = jaxforget.evaluate(model, suite, **settings)
        assert {row["model"] for row in rows} == {"unlearned"}
        expected = of_run(run, suite)
        assert set(told(rows)) == set(expected), suite
        for key, value in told(rows).items():
            assert value == pytest.approx(expected[key], rel=1e-5, abs=1e-7), key


def test_robustness_is_all_of_them(run, models, tiny_world):
    given = {"probes": run.config.evals.probes, "data": run.corpus, "anchors": run.anchors, "base": models["base"]}
    training = {"steps": 2, "batch": 8, "learning_rate": run.config.reinforce.learning_rate, "length": 32}
    texts = {"neighbours": tiny_world / "retain", "unrelated": tiny_world / "heldout"}
    more = {"control": models["control"], **texts}
    rows = told(jaxforget.evaluate(models["unlearned"], "robustness", **given, **training, **more))
    suites = ("prompting", "soft_prompt", "weights", "relearning")
    expected = {key: value for suite in suites for key, value in of_run(run, suite).items()}
    assert set(rows) == set(expected)
    for key, figures in rows.items():
        assert figures == pytest.approx(expected[key], rel=1e-5, abs=1e-7), key


def test_without_a_control_the_audit_wants_base_and_anchors(run, models):
    rows = jaxforget.evaluate(
        models["unlearned"], "audit", data=run.corpus, base=models["base"], anchors=run.anchors, length=32, limit=8
    )
    assert [row["metric"] for row in rows] == ["audit_leaked", "audit_excess"]
    assert "anchors" in rows[0]["convention"]


@pytest.mark.parametrize(
    ("suite", "settings", "says"),
    [
        ("weights", {}, "suite='weights' needs probes="),
        ("relearning", {"probes": "x.json"}, "needs data="),
        ("completion", {}, "needs prompts=.* or data= and anchors="),
        ("completion", {"data": "x"}, "or data= and anchors="),
        ("audit", {"data": "x"}, "needs control=.* or base= and anchors="),
        ("prompting", {"probes": "nowhere.json"}, "nowhere.json: no such file"),
        ("weights", {"probes": "retained only"}, "no familiarity questions"),
        ("prompting", {"probes": "x", "shots": 3}, "knows no shots="),
    ],
)
def test_what_is_missing_is_named(run, models, suite, settings, says, tmp_path):
    if settings.get("probes") == "retained only":
        settings = {"probes": tmp_path / "probes.json"}
        settings["probes"].write_text(json.dumps({"retained": [{"prompt": "a", "answer": " b"}]}))
    with pytest.raises(UserError, match=says):
        jaxforget.evaluate(models["unlearned"], suite, **settings)


def test_membership_stands_beside_the_control(run, models, tiny_world):
    settings = {"data": run.corpus, "nonmembers": tiny_world / "heldout", "length": 32, "limit": 8}
    mine = {row["metric"]: row for row in jaxforget.evaluate(models["unlearned"], "membership", **settings)}
    other = {row["metric"]: row for row in jaxforget.evaluate(models["control"], "membership", **settings)}
    both = jaxforget.evaluate(models["unlearned"], "membership", control=models["control"], **settings)
    both = {row["metric"]: row for row in both}
    assert set(both) == {*mine, *(f"{name}_above_control" for name in mine)}
    for name in mine:
        assert both[name] == mine[name]
        above = both[f"{name}_above_control"]
        assert above["value"] == pytest.approx(mine[name]["value"] - other[name]["value"], abs=1e-9)
        assert above["low"] <= above["value"] <= above["high"]


def test_membership_beside_a_reference_model(run, models, tiny_world):
    """The AUC of differences of mean log-probabilities, counted pair by pair; a model beside itself is at .5."""
    settings = {"data": run.corpus, "nonmembers": tiny_world / "heldout", "length": 32, "limit": 12}
    model, reference = models["unlearned"], models["control"]
    rows = jaxforget.evaluate(model, "membership", reference=reference, **settings)
    (found,) = [row for row in rows if row["metric"] == "auc_reference"]
    assert "minus that of a reference model" in found["convention"]

    def differences(source):
        passages = passages_of(source, model, length=32, limit=12)
        both = [scorer_of(m).log_probabilities(m.params, passages) for m in (model, reference)]
        return [own.mean() - other.mean() for own, other in zip(*both, strict=True)]

    texts = (Source(run.config.corpus.path), Source(tiny_world / "heldout"))
    pairs = list(itertools.product(*map(differences, texts)))
    assert found["value"] == pytest.approx(sum(a > b for a, b in pairs) / len(pairs), abs=1.5 / len(pairs))
    itself = jaxforget.evaluate(reference, "membership", reference=reference, **settings)
    assert [row["value"] for row in itself if row["metric"] == "auc_reference"] == [0.5]
    without = jaxforget.evaluate(model, "membership", **settings)
    assert [row["metric"] for row in rows if row not in without] == ["auc_reference"]
