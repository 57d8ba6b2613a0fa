"""Seeds: random seeds of a run, or other worlds on the toy world."""

import pytest

from jaxforget.compare import worlds
from jaxforget.compare.worlds import seed_config
from jaxforget.config import config_from
from jaxforget.demo.recipes import RECOMMENDED, unlearning
from jaxforget.errors import UserError
from jaxforget.files import write_json


def toy(folder):
    models = {"folder": str(folder / "base"), "control": str(folder / "control")}
    return config_from(unlearning(folder.parent / "toy", folder / "world", RECOMMENDED, {"model": models}))


def test_a_seed_of_the_toy_world_is_another_world(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(worlds, "make_models", lambda place, seed: made.append((place, seed)))
    config = toy(tmp_path / "demo")
    write_json(tmp_path / "demo" / "world" / "truth.json", {"seed": 3})
    assert seed_config(config, 3, tmp_path / "work") == config
    assert not made
    other = seed_config(config, 4, tmp_path / "work")
    place = tmp_path / "work" / "worlds" / "seed_4"
    assert made == [(place, 4)]
    assert other == config_from(
        unlearning(
            tmp_path / "toy",
            place / "world",
            RECOMMENDED,
            {"model": {"folder": str(place / "base"), "control": str(place / "control")}},
        )
    )


def test_a_toy_world_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="holds no toy world; run jaxforget demo --out"):
        seed_config(toy(tmp_path / "demo"), 0, tmp_path)


def test_on_any_other_configuration_a_seed_is_the_runs():
    config = config_from({"model": {"folder": "models/base"}, "corpus": {"path": "text"}})
    assert seed_config(config, 7, "work").seed == 7
