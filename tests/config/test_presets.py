"""The presets in configs/."""

import dataclasses
from pathlib import Path

import pytest

from jaxforget.config import Config, config_from, load_config, options, to_yaml
from jaxforget.demo.recipes import RECOMMENDED, unlearning
from jaxforget.tpu.topology import find_slice

PRESETS = Path(__file__).parents[2] / "configs"
# WHP, section 3 (arXiv 2310.02238): the paper's table, key by key.
PAPER = {
    "model.folder": "meta-llama/Llama-2-7b-chat-hf",
    "anchors.match": "first",
    "anchors.draw": "per_variant",
    "anchors.filter": True,
    "blocks.length": 512,
    "blocks.holdout": 0.05,
    "targets.alpha": 5.0,
    "method": "whp",
    "reinforce.epochs": 3.0,
    "reinforce.max_steps": None,
    "reinforce.learning_rate": 3e-6,
    "reinforce.batch": 128,
    "reinforce.accumulate": 16,
    "reinforce.b1": 0.9,
    "reinforce.b2": 0.98,
    "reinforce.weight_decay": 0.0,
    "reinforce.warmup_steps": 0,
    "reinforce.clip_norm": None,
    "forget.max_steps": 120,
    "forget.learning_rate": 1e-6,
    "forget.batch": 128,
    "forget.accumulate": 16,
    "forget.b1": 0.9,
    "forget.b2": 0.98,
    "forget.weight_decay": 0.0,
    "forget.warmup_steps": 0,
    "forget.clip_norm": None,
    "forget.select": "last",
    "retain.weight": 0.0,
    "retain.rows": 0,
    "evals.every": 20,
    "checkpoints.every": 20,
}


def value(config: Config, name: str):
    for part in name.split("."):
        config = getattr(config, part)
    return config


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda p: p.stem)
def test_preset_loads_and_round_trips(preset, tmp_path):
    config = load_config(preset)
    assert config.out == f"runs/{preset.stem}"
    assert config.model.folder is not None
    saved = tmp_path / "config.yaml"
    saved.write_text(to_yaml(config))
    assert load_config(saved) == config
    assert load_config(tmp_path) == dataclasses.replace(config, out=str(tmp_path)), "a run's folder is its `out`"


def test_there_are_these_presets():
    names = {path.stem for path in PRESETS.glob("*.yaml")}
    families = {"gemma2_9b", "llama3.2_1b", "qwen2.5_7b", "qwen3_8b", "zephyr_7b"}
    assert names == {"toy", "whp_llama2_7b", "whp_llama3_8b", "whp_tinyllama_1b"} | families


def test_the_papers_preset_is_the_papers_table():
    config = load_config(PRESETS / "whp_llama2_7b.yaml")
    assert {name: value(config, name) for name in PAPER} == PAPER
    # What a user brings is left to them.
    assert (config.corpus.path, config.anchors.path, config.evals.probes) == (None, None, None)


def test_the_toy_preset_is_the_demos_recipe():
    """A recipe that changes in demo/recipes.py changes in configs/toy.yaml too."""
    models = {"model": {"folder": "runs/demo/base", "control": "runs/demo/control"}}
    recipe = config_from(unlearning(Path("runs/toy"), Path("runs/demo/world"), RECOMMENDED, models))
    preset = load_config(PRESETS / "toy.yaml")
    different = {name: value(recipe, name) for name, _ in options() if value(preset, name) != value(recipe, name)}
    assert not different, f"configs/toy.yaml should say {different}"


@pytest.mark.parametrize("path", sorted((PRESETS / "slices").glob("*.yaml")), ids=lambda path: path.stem)
def test_slice_presets_change_only_what_costs_memory(path):
    """Their recipe stays the paper's: model, batch, its steps, and what holds a step in memory are all they name."""
    recipe, changed = load_config(PRESETS / "whp_llama2_7b.yaml"), load_config(path)
    allowed = (
        "out",
        "model.",
        "targets.tile",
        "reinforce.accumulate",
        "reinforce.batch",
        "reinforce.moment_dtype",
        "reinforce.weights",
    )
    if changed.forget.weights == "lora":
        allowed += (
            "reinforce.learning_rate",
        )  # an adapter's numbers are not the weights: the paper's rate is not theirs
    allowed += tuple(name.replace("reinforce", "forget") for name in allowed)
    if changed.forget.batch != recipe.forget.batch:
        allowed += ("forget.max_steps", "evals.every", "checkpoints.every")  # as many blocks in other portions
    different = {name for name, _ in options() if value(recipe, name) != value(changed, name)}
    assert "out" in different
    assert not {name for name in different if not name.startswith(allowed)}
    find_slice(path.stem.rpartition("_")[2])
