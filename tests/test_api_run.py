"""`jaxforget.run`: what it takes, returns and refuses."""

import json

import pytest

import jaxforget
from jaxforget import api
from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.stages.run import Run
from tests.tiny_run import settings, write_config


def test_run_names_no_reinforced_model_where_the_method_needs_none(tiny_world, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "run_chain", lambda config, **_: Run(config))
    (tmp_path / "evals").mkdir()
    (tmp_path / "evals" / "summary.json").write_text('{"rows": []}')
    config = settings(tiny_world, tmp_path)
    assert jaxforget.run(config)["folders"]["reinforced"] is None
    (tmp_path / "reinforced").mkdir()
    assert jaxforget.run(config)["folders"]["reinforced"] == str(tmp_path / "reinforced")


def test_run_takes_files_folders_values_and_overrides(tiny_world, tiny_run, tmp_path):
    short = {"max_steps": 1, "batch": 8}
    given = {"reinforced": str(tiny_run / "reinforced")}
    file = write_config(tmp_path / "c.yaml", settings(tiny_world, tmp_path / "unused", evals={"prompts": None}))
    found = jaxforget.run(file, out=str(tmp_path / "a"), forget=short, model=given)
    assert found["folder"] == str(tmp_path / "a")
    assert found["folders"]["export"] == str(tmp_path / "a" / "export")
    assert (tmp_path / "a" / "export" / "model.safetensors").is_file()
    assert {row["model"] for row in found["summary"]} == {"base", "reinforced", "unlearned"}
    assert set(found["seconds"]) == {"anchors", "prepare", "reinforce", "forget", "eval", "export", "report"}
    assert not (tmp_path / "unused").exists()
    assert json.loads((tmp_path / "a" / "unlearned" / "steps.json").read_text()) == {"steps": 1}
    # The rest of the section is the file's.
    assert "learning_rate: 0.001" in (tmp_path / "a" / "config.yaml").read_text()
    values = settings(tiny_world, tmp_path / "a", evals={"prompts": None}, forget=short, model=given)
    stamp = (tmp_path / "a" / "export" / "model.safetensors").stat().st_mtime_ns
    for same in (values, config_from(values), tmp_path / "a", str(tmp_path / "a")):
        again = jaxforget.run(same)
        assert again["summary"] == found["summary"]
    again = jaxforget.run(values, **{"forget.max_steps": 1})
    assert again["summary"] == found["summary"]
    assert (tmp_path / "a" / "export" / "model.safetensors").stat().st_mtime_ns == stamp, "nothing changed"


def test_run_refuses_unknown_overrides(tiny_world, tmp_path):
    values = settings(tiny_world, tmp_path / "a")
    for wrong in ({"froget": {}}, {"forget": {"bach": 3}}, {"forget": 3}, {"forget.bach": 3}):
        with pytest.raises(UserError):
            jaxforget.run(values, **wrong)
    assert not (tmp_path / "a").exists()
