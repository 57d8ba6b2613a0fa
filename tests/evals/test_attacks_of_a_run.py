"""The suites of attacks on a finished run: what they measure, keep, and say without what they need."""

import json
import shutil

import numpy as np
import pytest

from jaxforget.config import load_config
from jaxforget.errors import UserError
from jaxforget.evals.catalogue import choose
from jaxforget.evals.familiarity import answer_probabilities, encode_probe
from jaxforget.evals.probes import load_probes
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.weights import quantized
from jaxforget.lm.model import load
from jaxforget.stages.measure import measure_suites, read_rows, rows_file
from jaxforget.stages.run import Run

ATTACKS = choose("prompting,soft_prompt,weights,relearning")


@pytest.fixture(scope="module")
def run(tiny_run, tiny_world, tmp_path_factory):
    """A finished run with a control and neighbours, all attacks measured."""
    copy = shutil.copytree(tiny_run, tmp_path_factory.mktemp("robust") / "run")
    words = [f"model.control={tiny_world / 'control'}", f"retain.path={tiny_world / 'retain'}"]
    config = load_config(copy, [f"out={copy}", *words, "evals.relearn_steps=3", "evals.relearn_batch=8"])
    run = Run(config)
    measure_suites(run, ATTACKS)
    return run


@pytest.fixture(scope="module")
def rows(run):
    return json.loads((run.evals / "summary.json").read_text())["rows"]


def value(rows, metric, model):
    (found,) = [row["value"] for row in rows if (row["metric"], row["model"]) == (metric, model)]
    return found


def test_every_attack_on_every_model_beside_the_control(rows):
    attacks = {row["metric"] for row in rows if not row["metric"].endswith("_above_control")}
    assert {
        "plain", "prompt_only", "rephrased", "rephrased_worst", "languages", "leading", "few_shot", "many_shot",
        "in_context",
        "soft_prompt", "soft_prompt_start", "soft_prompt_taught",
        "int8", "int4", "int4_retained", "back_to_base_25", "back_to_base_50", "back_to_base_75",
        "relearn_target_0", "relearn_target_3", "relearn_neighbours_0", "relearn_neighbours_3",
        "relearn_unrelated_0", "relearn_unrelated_3",
    } <= attacks  # fmt: skip
    for model in ("unlearned", "base"):
        above = value(rows, "int4_above_control", model)
        assert above == pytest.approx(value(rows, "int4", model) - value(rows, "int4", "control"), abs=1e-12)
    assert not [row for row in rows if row["model"] == "control" and row["metric"].endswith("_above_control")]
    assert not [row for row in rows if row["metric"] == "int4_retained_above_control"]
    assert not [row for row in rows if row["model"] == "base" and row["metric"].startswith(("relearn", "back_to"))]
    for metric in ("relearn_target_3", "relearn_unrelated_3", "soft_prompt"):
        assert {row["model"] for row in rows if row["metric"] == metric} == {"unlearned", "control"}
        assert [row["model"] for row in rows if row["metric"] == f"{metric}_above_control"] == ["unlearned"]


def test_attacks_find_what_the_plain_functions_find(run, rows):
    model = load(run.unlearned, "float32", run.mesh)
    probes = [encode_probe(probe, model.tokenizer) for probe in load_probes(run.config.evals.probes).familiarity]
    plain = answer_probabilities(scorer_of(model), model.params, probes)
    assert value(rows, "plain", "unlearned") == pytest.approx(plain.mean(), rel=1e-6)
    four = answer_probabilities(scorer_of(model), quantized(model.params, 4), probes)
    assert value(rows, "int4", "unlearned") == pytest.approx(four.mean(), rel=1e-6)
    assert not np.allclose(four, plain)
    # Before training, the questions that are asked are plain ones.
    cached = {row.metric: row for row in read_rows(rows_file(run, "relearning", "unlearned"))["rows"]}
    before = cached["relearn_target_0"].items
    assert all(min(abs(plain - value)) < 1e-6 for value in before)
    assert before != pytest.approx(cached["relearn_target_3"].items, rel=1e-3)


def test_another_control_measures_only_the_control(run, tiny_world, tmp_path, capsys):
    """The differences follow from the cached items, so no other model is attacked again."""
    control = shutil.copytree(tiny_world / "base", tmp_path / "other")
    moved = Run(load_config(run.folder, [f"out={run.folder}", f"model.control={control}"]))
    rows = measure_suites(moved, choose("weights"))
    said = capsys.readouterr().err
    assert "unlearned: weights: up to date" in said
    assert "control: weights: up to date" not in said
    found = {(row.metric, row.model): row.value for row in rows}
    above = found["int4", "unlearned"] - found["int4", "control"]
    assert found["int4_above_control", "unlearned"] == pytest.approx(above, abs=1e-12)


@pytest.mark.parametrize("probes", [None, {"retained": [{"prompt": "a", "answer": " b"}]}])
def test_without_questions(run, probes, tmp_path):
    place = None
    if probes is not None:
        place = tmp_path / "probes.json"
        place.write_text(json.dumps(probes))
    config = load_config(run.folder, [f"out={run.folder}", f"evals.probes={'null' if place is None else place}"])
    with pytest.raises(UserError, match=r"suite=weights: evals.probes.*familiarity"):
        measure_suites(Run(config), ATTACKS, named=["weights"])
