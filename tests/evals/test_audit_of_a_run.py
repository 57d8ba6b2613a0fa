"""The audit of a finished run, beside probabilities computed without it."""

import json
import shutil

import numpy as np
import pytest

from jaxforget.config import load_config
from jaxforget.evals.catalogue import choose
from jaxforget.evals.memorization import passages_of
from jaxforget.evals.scorers import scorer_of
from jaxforget.lm.model import load
from jaxforget.stages.measure import measure_suites
from jaxforget.stages.run import Run


@pytest.fixture(scope="module")
def audited(tiny_run, tiny_world, tmp_path_factory):
    """(control or not) -> a run whose audit is done."""
    made = {}

    def make(control: bool) -> Run:
        if control not in made:
            copy = shutil.copytree(tiny_run, tmp_path_factory.mktemp("audit") / "run")
            words = [f"model.control={tiny_world / 'control'}"] if control else []
            made[control] = Run(load_config(copy, [f"out={copy}", "evals.passages=12", *words]))
            measure_suites(made[control], choose("audit"))
        return made[control]

    return make


def rows_of(run: Run) -> dict[tuple[str, str], dict]:
    rows = json.loads((run.evals / "summary.json").read_text())["rows"]
    return {(row["metric"], row["model"]): row for row in rows}


def test_against_the_control_every_word_is_read(audited, tiny_world):
    run = audited(True)
    rows = rows_of(run)
    assert {model for metric, model in rows if metric.startswith("audit")} == {"base", "reinforced", "unlearned"}
    model = load(run.unlearned, "float32", run.mesh)
    ids = passages_of(run.target, model, length=32, limit=12)
    # Words of one token each, as most here are, have the probabilities that the scorer gives.
    mine = np.concatenate(scorer_of(model).log_probabilities(model.params, ids))
    row = rows["audit_excess", "unlearned"]
    assert 0 < row["n"] <= len(mine)
    page = json.loads((run.evals / "audit" / "unlearned.json").read_text())
    assert page["against"] == "control"
    shown = [word for passage in page["passages"] for word in passage["words"]]
    assert sum(word["leaked"] for word in shown) == sum(w["model"] - w["reference"] >= 0.1 - 5e-5 for w in shown)
    known = {round(float(p), 4) for p in np.exp(np.float64(mine))}
    assert np.mean([word["model"] in known for word in shown]) > 0.5
    # What is spelled is the target's own text, but for the first token of a passage.
    target = " ".join(" ".join(path.read_text() for path in sorted((tiny_world / "target").iterdir())).split())
    for passage in page["passages"]:
        assert " ".join("".join(word["text"] for word in passage["words"]).split()) in target
    order = [passage["excess"] for passage in page["passages"]]
    assert order == sorted(order, reverse=True)
    # All twelve passages are shown, so that what is shown adds up to the row.
    assert len(shown) == row["n"]
    assert np.mean([max(0, w["model"] - w["reference"]) for w in shown]) == pytest.approx(row["value"], abs=1e-4)


def test_without_a_control_base_stands_in_and_anchors_are_watched(audited):
    run = audited(False)
    rows = rows_of(run)
    assert {model for metric, model in rows if metric.startswith("audit")} == {"reinforced", "unlearned"}
    row = rows["audit_leaked", "unlearned"]
    assert "anchors' first places" in row["convention"]
    with_control = rows_of(audited(True))["audit_leaked", "unlearned"]
    assert 0 < row["n"] < with_control["n"]
    page = json.loads((run.evals / "audit" / "unlearned.json").read_text())
    assert page["against"] == "base"
