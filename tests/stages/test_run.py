"""Paths of a run, and options that must be set."""

from pathlib import Path

import pytest

from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.stages.run import Run


def test_places():
    run = Run(config_from({"out": "runs/x"}))
    assert run.folder == Path("runs/x")
    assert run.blocks == Path("runs/x/blocks/target")
    assert run.retain_blocks is None
    assert run.reinforced == Path("runs/x/reinforced")
    assert run.checkpoints("forget") == Path("runs/x/checkpoints/forget")
    assert run.control is None
    retain = config_from({"out": "runs/x", "retain": {"path": "y", "rows": 8, "weight": 1.0}})
    assert Run(retain).retain_blocks == Path("runs/x/blocks/retain")


def test_a_given_reinforced_model_is_where_it_is(tiny_world):
    given = config_from({"out": "runs/x", "model": {"reinforced": str(tiny_world / "control")}})
    assert Run(given).reinforced == tiny_world / "control"


@pytest.mark.parametrize(
    ("place", "name"),
    [("folder", "out"), ("base", "model.folder"), ("corpus", "corpus.path"), ("dictionary", "anchors.path")],
)
def test_what_is_not_set_is_named(place, name):
    with pytest.raises(UserError, match=f"^{name} is not set; it names "):
        getattr(Run(config_from({})), place)


def test_the_mesh_is_that_of_the_options(devices):
    run = Run(config_from({"mesh": {"data": 2, "tensor": 2}}))
    assert dict(run.mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
