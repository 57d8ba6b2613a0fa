"""Results of the chain's stages when run alone, from given models, and with other objectives."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from jaxforget.config import config_from
from jaxforget.corpus.batches import read_summary
from jaxforget.errors import UserError
from jaxforget.pipeline import STAGES, run_chain
from tests.tiny_run import settings

NAMES = tuple(stage.name for stage in STAGES if stage.name != "undo")  # which only a run with undo.alpha has
MADE = (
    "anchors.json",
    "blocks/target/blocks.json",
    "reinforced/model.safetensors",
    "unlearned/model.safetensors",
    "unlearned/steps.json",
    "export/model.safetensors",
    "export/config.json",
    "evals/curve.json",
    "evals/dynamics.json",
    "evals/summary.json",
    "evals/completions.json",
)


UNTIL_FORGET = ("anchors", "prepare", "reinforce", "forget")


def chain(world: Path, out: Path, stages: tuple[str, ...] = NAMES, **sections):
    return run_chain(config_from(settings(world, out, **sections)), stages)


def content(folder: Path, *names: str) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in names}


def test_each_stage_as_a_command_of_its_own_equals_the_chain(tiny_world, tiny_run, tmp_path):
    for name in NAMES:
        chain(tiny_world, tmp_path / "run", (name,))
    assert content(tmp_path / "run", *MADE) == content(tiny_run, *MADE)
    assert (tmp_path / "run" / "report.html").is_file()


def test_cached_labels_give_the_same_weights_bit_for_bit(tiny_world, tiny_run, tmp_path):
    given = {"model": {"reinforced": str(tiny_run / "reinforced")}}
    run = chain(tiny_world, tmp_path / "run", UNTIL_FORGET, targets={"cache": True}, **given)
    # Also: a reinforced model that is given is as good as one that this run trained.
    names = ("unlearned/model.safetensors", "evals/curve.json", "evals/dynamics.json")
    assert content(run.folder, *names) == content(tiny_run, *names)
    labels = np.load(run.folder / "labels" / "train.npy")
    blocks = read_summary(run.blocks)
    assert labels.shape == (blocks["splits"]["train"], blocks["length"])


def test_the_retain_term_trains_and_is_told(tiny_world, tiny_run, tmp_path):
    retain = {"retain": {"path": str(tiny_world / "retain"), "weight": 2.0, "rows": 8}}
    given = {"model": {"reinforced": str(tiny_run / "reinforced")}}
    run = chain(tiny_world, tmp_path / "run", UNTIL_FORGET, **retain, **given)
    lines = (run.folder / "metrics.jsonl").read_text().splitlines()
    steps = [step for step in map(json.loads, lines) if step["kind"] == "train"]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert all(step["retain_tokens"] > 0 for step in steps)
    assert steps[0]["retain_loss"] < 1e-5, "the student starts as base: nothing to retain yet"
    assert all(step["retain_loss"] > 1e-5 for step in steps[1:])
    # What a step forgets is read from other blocks' rows, and so from the same blocks as without the term.
    assert steps[0]["loss"] == pytest.approx(first_loss(tiny_run), rel=1e-5)
    card = (run.unlearned / "README.md").read_text()
    assert f", on {tiny_world}/retain |" in card


def first_loss(run: Path) -> float:
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return next(record["loss"] for record in records if (record["stage"], record["step"]) == ("forget", 1))


def test_select_takes_the_best_checkpoint(tiny_world, tiny_run, tmp_path):
    given = {"model": {"reinforced": str(tiny_run / "reinforced")}}
    # Rates at which the curve turns: the last step is not the best.
    select = {"select": "retained", "learning_rate": 5e-2, "max_steps": 6}
    run = chain(tiny_world, tmp_path / "run", (*UNTIL_FORGET, "eval"), forget=select, **given)
    rows = json.loads((run.evals / "curve.json").read_text())["rows"]
    assert [row["step"] for row in rows] == [0, 2, 4, 6]
    best = max(rows[1:], key=lambda row: row["retained"])
    assert json.loads((run.unlearned / "steps.json").read_text()) == {"steps": best["step"]}
    summary = json.loads((run.evals / "summary.json").read_text())["rows"]
    value = next(row["value"] for row in summary if (row["model"], row["metric"]) == ("unlearned", "retained"))
    assert value == pytest.approx(best["retained"], rel=1e-5)


def test_compared_models_are_in_the_tables(tiny_world, tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    compare = {"twin": str(tiny_run / "unlearned"), "other": str(tiny_world / "control")}
    run = chain(tiny_world, copy, evals={"compare": compare})
    rows = json.loads((run.evals / "summary.json").read_text())["rows"]
    assert list(dict.fromkeys(row["model"] for row in rows)) == ["base", "reinforced", "unlearned", "twin", "other"]
    of = {name: [row["value"] for row in rows if row["model"] == name] for name in ("unlearned", "twin", "other")}
    assert of["twin"] == of["unlearned"] != of["other"]
    for item in json.loads((run.evals / "completions.json").read_text())["prompts"]:
        assert item["completions"]["twin"] == item["completions"]["unlearned"]
    assert content(run.folder, "unlearned/model.safetensors") == content(tiny_run, "unlearned/model.safetensors")


def test_without_anchors_a_model_can_be_trained_but_not_unlearned(tiny_world, tmp_path):
    none = {"path": None, "extractor": "none"}
    run = chain(tiny_world, tmp_path / "run", ("prepare", "reinforce"), anchors=none)
    assert (run.reinforced / "model.safetensors").is_file()
    assert not run.anchors.exists()
    with pytest.raises(UserError, match=r"anchors\.path is not set"):
        chain(tiny_world, tmp_path / "run", ("forget",), anchors=none)
