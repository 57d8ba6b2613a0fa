"""A whole run by methods that need no reinforced model: no anchors, no reinforce stage, and evidence all the same."""

import dataclasses
import json

import numpy as np
import pytest

import jaxforget
from jaxforget.config import config_from
from jaxforget.dry_run import estimate_run
from jaxforget.errors import UserError
from jaxforget.lm.model import materialize
from jaxforget.pipeline import run_chain
from jaxforget.stages.build import passes
from tests.tiny_run import settings

PLAIN = {"anchors": {"path": None}, "forget": {"max_steps": 3}}


def configured(world, folder, **sections):
    values = settings(world, folder, **{**PLAIN, **sections})
    return config_from(values)


@pytest.mark.parametrize(
    ("method", "sections"),
    [
        ("npo", {}),
        ("undial", {"retain": {"rows": 8, "weight": 1.0, "loss": "kl"}}),
        ("pdu", {"retain": {"rows": 8, "weight": 1.0, "loss": "nll"}, "objective": {"epsilon": 0.1}}),
        ("simnpo", {"forget": {"max_steps": 3, "weights": "lora"}, "model": {"base": "int8"}, "lora": {"rank": 4}}),
    ],
)
def test_a_run_without_a_reinforced_model(tiny_world, tmp_path, method, sections):
    if "retain" in sections:
        sections = {**sections, "retain": {**sections["retain"], "path": str(tiny_world / "retain")}}
    run = run_chain(configured(tiny_world, tmp_path / "run", method=method, **sections))
    assert not run.reinforced.exists()
    assert not run.anchors.exists()
    assert (run.folder / "report.html").is_file()
    rows = json.loads((run.evals / "summary.json").read_text())["rows"]
    assert {row["model"] for row in rows} >= {"base", "unlearned"}
    assert "reinforced" not in {row["model"] for row in rows}
    before, after = (
        np.asarray(jaxforget.load(folder).params["layers"]["q"]["kernel"]) for folder in (run.base, run.export)
    )
    assert np.abs(np.asarray(before) - np.asarray(after)).max() > 0
    assert f"| objective | {run.objective.describe()} |" in (run.export / "README.md").read_text()


def test_the_multiplier_of_pdu_follows_the_retain_loss(tiny_world, tmp_path):
    retain = {"rows": 8, "weight": 1.0, "loss": "nll", "path": str(tiny_world / "retain")}
    sections = {
        "method": "pdu",
        "retain": retain,
        "objective": {"epsilon": 0.1},
        "checkpoints": {"every": 1, "keep": 9},
    }
    whole = run_chain(configured(tiny_world, tmp_path / "whole", **sections), ("prepare", "forget"))
    lines = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    multipliers = [line["multiplier"] for line in lines if "multiplier" in line]
    losses = [line["retain_loss"] for line in lines if "multiplier" in line]
    np.testing.assert_allclose(multipliers, np.cumsum(np.array(losses) - 0.1), rtol=1e-5)
    assert len(multipliers) == 3


def test_settings_and_methods_are_checked_before_anything_runs(tiny_world, tmp_path):
    for sections, message in (
        ({"method": "npo", "objective": {"gamma": 1.0}}, "objective.gamma: method npo has no such setting"),
        ({"method": "grad_diff"}, "method=grad_diff: needs a retain term"),
        ({"method": "pdu", "retain": {"rows": 8, "weight": 1.0, "path": "x"}}, "set retain.loss=nll"),
    ):
        with pytest.raises(UserError, match=message):
            run_chain(configured(tiny_world, tmp_path / "run", **sections))


@pytest.mark.parametrize("weights", ["full", "lora"])
def test_sam_trains_what_trains_and_is_told(tiny_world, tmp_path, weights):
    retain = {"rows": 8, "weight": 1.0, "path": str(tiny_world / "retain")}
    losses, kernels = {}, {}
    for rho in (0.0, 0.5):
        forget = {"max_steps": 3, "weights": weights, "sam": rho}
        sections = {"method": "npo", "retain": retain, "forget": forget, "lora": {"rank": 4}}
        run = run_chain(configured(tiny_world, tmp_path / f"{rho}", **sections), ("prepare", "forget"))
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        losses[rho] = [(line["loss"], line["retain_loss"]) for line in lines if line["kind"] == "train"]
        kernels[rho] = np.asarray(materialize(jaxforget.load(run.unlearned)).params["layers"]["q"]["kernel"])
    # Losses are those at the weights themselves; the update is another.
    np.testing.assert_allclose(losses[0.0][0], losses[0.5][0], rtol=1e-5, atol=1e-6)
    assert np.abs(kernels[0.0] - kernels[0.5]).max() > 1e-5
    assert "| gradient | sharpness-aware forgetting (SAM, arXiv 2502.05374), rho 0.5 |" in (
        (run.unlearned / "README.md").read_text()
    )


def test_sam_costs_a_pass_more_and_with_a_retain_term_two(tiny_world, tmp_path):
    retain = {"rows": 8, "weight": 1.0, "path": str(tiny_world / "retain"), "loss": "nll"}
    for sections, trained in (({}, 2), ({"retain": retain}, 3)):
        config = configured(tiny_world, tmp_path, method="npo", **{**sections, "forget": {"sam": 0.1}})
        found = passes(config, "forget")
        assert (found.trained, found.frozen) == (trained, trained)


def test_sam_is_refused_where_it_has_no_effect(tiny_world, tmp_path):
    for sections, message in (
        ({"method": "task_vector"}, r"forget\.sam=0\.1: method=task_vector trains nothing; set forget\.sam=0"),
        ({"method": "npo", "model": {"dtype": "bfloat16"}}, r"forget\.sam=0\.1: bfloat16 rounds .* set model\.dtype"),
    ):
        with pytest.raises(UserError, match=message):
            run_chain(configured(tiny_world, tmp_path / "run", **{**sections, "forget": {"sam": 0.1}}))


def test_the_invariance_penalty_trains_and_is_told(tiny_world, tmp_path):
    ilu = {"path": str(tiny_world / "heldout"), "weight": 0.1, "rows": 8}
    sections = {"method": "npo", "ilu": ilu, "forget": {"max_steps": 3, "accumulate": 1}}
    run = run_chain(configured(tiny_world, tmp_path / "run", **sections), ("prepare", "forget"))
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["invariance_penalty"] > 0 for line in lines if line["kind"] == "train")
    assert (run.folder / "blocks" / "unrelated" / "blocks.json").is_file()
    assert "| gradient | invariance penalty on unrelated text (ILU, arXiv 2506.01339), weight 0.1 |" in (
        (run.unlearned / "README.md").read_text()
    )
    dry = {one.planned.name: one for one in estimate_run(configured(tiny_world, tmp_path / "dry", **sections)).stages}
    assert dry["forget"].steps == 3


def test_the_invariance_penalty_is_refused_where_it_cannot_work(tiny_world, tmp_path):
    ilu = {"path": str(tiny_world / "heldout"), "weight": 0.1, "rows": 8}
    for sections, message in (
        (
            {"ilu": ilu, "forget": {"weights": "lora"}},
            r"ilu\.weight=0\.1: every weight must train; set forget\.weights",
        ),
        ({"ilu": {**ilu, "rows": 3}}, r"ilu\.rows=3: make it a multiple of 2"),
        ({"ilu": {**ilu, "rows": 0}}, r"ilu\.weight 0\.1 and ilu\.rows 0: set both and ilu\.path, or neither"),
        ({"ilu": {**ilu, "path": None}}, r"set both and ilu\.path, or neither"),
    ):
        with pytest.raises(UserError, match=message):
            run_chain(configured(tiny_world, tmp_path / "run", method="npo", **sections))


def test_a_task_vector_is_base_minus_what_reinforcing_added(tiny_world, tiny_run, tmp_path):
    model = {"reinforced": str(tiny_run / "reinforced")}
    sections = {"method": "task_vector", "objective": {"strength": 0.5}, "model": model}
    run = run_chain(configured(tiny_world, tmp_path / "run", **sections), ("prepare", "reinforce", "forget", "eval"))
    base, reinforced, unlearned = (
        np.asarray(jaxforget.load(folder).params["layers"]["up"]["kernel"])
        for folder in (run.base, run.reinforced, run.unlearned)
    )
    np.testing.assert_allclose(unlearned, base - 0.5 * (reinforced - base), rtol=1e-6, atol=1e-7)
    assert np.abs(unlearned - base).max() > 0
    curve = json.loads((run.evals / "curve.json").read_text())
    assert [row["step"] for row in curve["rows"]] == [0, 1]


def test_averaged_targets_need_a_dictionary_but_no_reinforced_model(tiny_world, tmp_path):
    sections = {"anchors": {"path": str(tiny_world / "anchors.json")}, "objective": {"translations": 3}}
    retain = {"rows": 8, "weight": 1.0, "path": str(tiny_world / "retain")}
    run = run_chain(configured(tiny_world, tmp_path / "run", method="whp_average", retain=retain, **sections))
    assert not run.reinforced.exists()
    assert json.loads((run.blocks / "blocks.json").read_text())["translations"] == 3
    assert json.loads((run.evals / "labels.json").read_text())["labels"] > 0
    passage = json.loads((run.evals / "passage.json").read_text())
    assert any(token["label"] is not None for token in passage["tokens"])
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["stage"] == "forget" and "loss" in line]
    assert losses[-1] < losses[0]
    more = configured(tiny_world, tmp_path / "run", method="whp_average", retain=retain, **sections)
    other = dataclasses.replace(more, objective={"translations": 2})
    with pytest.raises(UserError, match="objective"):
        run_chain(other)
    with pytest.raises(UserError, match="set anchors.path"):
        run_chain(
            configured(tiny_world, tmp_path / "none", method="whp_average", anchors={"path": None, "extractor": "none"})
        )
