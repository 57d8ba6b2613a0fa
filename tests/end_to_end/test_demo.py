"""The demo's path in a handful of steps: what it writes, that it resumes, that `run` gives its very weights."""

import contextlib
import io
import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from jaxforget.cli import main
from jaxforget.demo import demo, pretrain, recipes, world
from jaxforget.models.safetensors_io import MappedFile

STEPS = 3
NOTEBOOK = Path(__file__).parents[2] / "scripts" / "demo.ipynb"


@pytest.fixture(scope="module")
def small():
    """A small world and model, and the demo's recipes cut to a few steps: what the models learn is not tested here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"UNIVERSES": 6, "EVERYDAY_STORIES": 40}.items():
            patch.setattr(world, name, value)
        for name, value in {"hidden_size": 32, "intermediate_size": 48, "head_dim": 8}.items():
            patch.setitem(recipes.SHAPE, name, value)
        patch.setattr(pretrain, "STEPS", STEPS)
        patch.setattr(pretrain, "WARMUP", 1)
        patch.setattr(demo, "STEPS", STEPS)
        for recipe, stage in (
            (recipes.UNLEARNING, "reinforce"),
            (recipes.PAPER, "forget"),
            (recipes.RECOMMENDED, "forget"),
        ):
            patch.setitem(recipe, stage, {**recipe[stage], "max_steps": STEPS})
        for recipe in (recipes.PAPER, recipes.RECOMMENDED):
            patch.setitem(recipe, "evals", {"every": 0, "heldout_blocks": 8, "completion_tokens": 4})
        yield


@pytest.fixture(scope="module")
def out(small, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "run"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        assert main(["demo", "--out", str(folder)]) == 0
    assert said.getvalue().startswith("expected time: 3 min on 2 CPU cores\n")
    return folder


def weights(folder: Path) -> dict[str, Any]:
    return {
        name: np.array(file.view(name))
        for path in sorted(folder.glob("*.safetensors"))
        for file in [MappedFile(path)]
        for name in file.tensors
    }


def test_results_have_every_model_time_and_folder(out):
    results = json.loads((out / "results.json").read_text())
    assert list(results["models"]) == ["base", "control", "reinforced", "paper", "unlearned"]
    for measures in results["models"].values():
        assert set(measures) == {"familiarity", "retained", "perplexity", "steps"}
        assert measures["steps"] == STEPS
        assert 0 <= measures["familiarity"] <= 1
        assert measures["perplexity"] > 1
    seconds = results["seconds"]
    assert {"total", "world", "base", "control", "paper", "recommended"} <= set(seconds)
    parts = sum(value for name, value in seconds.items() if name != "total")
    assert seconds["total"] == pytest.approx(parts, abs=0.1)
    assert results["peak_rss_bytes"] > 2**27
    for name in ("base", "control", "reinforced", "paper", "unlearned", "export"):
        assert (Path(results["folders"][name]) / "config.json").is_file()
    truth = json.loads((out / "world" / "truth.json").read_text())
    assert Path(truth["target_text"]).is_dir()
    assert Path(truth["retain_text"]).is_dir()
    target = "".join(path.read_text() for path in sorted(Path(truth["target_text"]).glob("*.txt")))
    assert all(term in target for term in truth["target_terms"])


def test_second_demo_does_nothing_again(small, out, capfd):
    results = json.loads((out / "results.json").read_text())
    (out / "results.json").write_text(json.dumps({**results, "peak_rss_bytes": 2**50}))
    before = (out / "export" / "config.json").stat().st_mtime_ns
    assert main(["demo", "--out", str(out)]) == 0
    said = capfd.readouterr().err
    assert "forget: up to date" in said
    assert "expected time" not in said
    assert "pretrain: up to date" in said
    assert json.loads((out / "results.json").read_text())["peak_rss_bytes"] == 2**50, "the peak of the whole demo"
    assert (out / "export" / "config.json").stat().st_mtime_ns == before


def test_another_seed_is_another_world(small, out, capfd):
    assert main(["demo", "--out", str(out), "--seed", "1"]) == 2
    assert "--seed" in capfd.readouterr().err


def test_run_on_the_demos_folders_gives_the_demos_weights(small, out, tmp_path):
    assert main(["run", str(out / "toy.yaml"), f"out={tmp_path / 'mine'}"]) == 0
    ours, theirs = weights(tmp_path / "mine" / "export"), weights(out / "export")
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])


def test_the_notebook_shows_the_demo_and_runs_a_model_of_ones_own(small, out, tmp_path, monkeypatch, capsys):
    """All code cells run in order, except the one that installs; parameters name the demo that is there already."""
    notebook = json.loads(NOTEBOOK.read_text())
    shown = []
    display = ModuleType("IPython.display")
    display.SVG, display.display = (lambda filename: filename), shown.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    mine = tmp_path / "mine"
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code" or "install" in cell["metadata"].get("tags", ()):
            continue
        exec(compile("".join(cell["source"]), f"{NOTEBOOK.name}: {cell['id']}", "exec"), names)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert {"OUT", "MINE", "STEPS"} <= names.keys()
            names |= {"OUT": str(out), "MINE": str(mine), "STEPS": STEPS}
    assert [Path(path).name for path in shown] == [
        "result-1.svg",
        "curves-1.svg",
        "curves-2.svg",
        "curves-3.svg",
        "curves-4.svg",
    ]
    assert (mine / "report.html").is_file()
    assert (mine / "export" / "config.json").is_file()
    assert (tmp_path / "mine-export.zip").is_file()
    said = capsys.readouterr().out
    assert "base:      " in said
    assert "(control 0." in said


def test_the_notebook_is_clean_and_installs_what_the_project_declares():
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None
               for cell in notebook["cells"] if cell["cell_type"] == "code")  # fmt: skip
    (install,) = (cell for cell in notebook["cells"] if "install" in cell["metadata"].get("tags", ()))
    text = "".join(install["source"])
    root = NOTEBOOK.parents[1]
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"\[(\w+)\]\"", text)) == {"tpu", "gpu"} <= extras.keys()
    assert "/requirements.lock" in text
    assert (root / "requirements.lock").is_file()
    compile(text.replace("%pip", "# "), "install", "exec")
    for path in re.findall(r"`?(configs/[\w/.]+\w)", NOTEBOOK.read_text()):
        assert (root / path).exists(), path
