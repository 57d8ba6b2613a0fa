"""A chain of stages whose work is replaced by one that only writes their outputs."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from jaxforget import pipeline
from jaxforget.config import config_from
from jaxforget.files import write_text
from jaxforget.pipeline import STAGES, run_chain
from tests.tiny_run import settings

NAMES = tuple(stage.name for stage in STAGES if stage.name != "undo")  # off by default
ALL = list(NAMES[:-1])  # the page is always made again
AFTER_PREPARE = ALL[1:]
AFTER_REINFORCE = ALL[2:]
AFTER_TRANSLATION = [name for name in AFTER_PREPARE if name != "reinforce"]
AFTER_FORGET = ALL[3:]
RETAIN = {"weight": 1.0, "rows": 8, "path": "WORLD/retain"}
FOUND = {"anchors": {"path": None}}
FOUND_ALL = ["text", "reinforce", "anchors", "prepare", "forget", "eval", "export"]


def chain(world: Path, out: Path, stages: tuple[str, ...] = NAMES, again: bool = True, **sections):
    return run_chain(config_from(settings(world, out, **sections)), stages, again=again)


@pytest.fixture
def stubbed(tiny_world, tmp_path, monkeypatch):
    """`go(**sections) -> (stages that worked, lines that were printed)` on a copy of the world in `tmp_path`."""
    world = shutil.copytree(tiny_world, tmp_path / "world")
    worked: list[str] = []

    def stub(stage):
        def work(run, mark):
            worked.append(stage.name)
            for path in stage.outputs(run):
                if path.is_relative_to(run.folder):
                    # The verdict at the end of a chain reads the evidence.
                    write_text(path, '{"rows": []}' if path.name == "summary.json" else mark)

        return dataclasses.replace(stage, work=work)

    monkeypatch.setattr(pipeline, "STAGES", tuple(stub(stage) for stage in STAGES))
    monkeypatch.setattr(pipeline, "TEXT", stub(pipeline.TEXT))
    said: list[str] = []
    monkeypatch.setattr("jaxforget.stages.run.Run.say", lambda self, text, **_: said.append(text))

    def go(**sections):
        worked.clear()
        said.clear()
        chain(world, tmp_path / "run", **sections)
        return [name for name in worked if name != "report"], list(said)

    go.world, go.run = world, tmp_path / "run"
    return go
