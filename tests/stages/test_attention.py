"""The option model.attention: "plain" reaches every model that a run loads, and trains."""

import pytest

from jaxforget.config import config_from
from jaxforget.lm import forward
from jaxforget.models.splash import SplashAttention
from jaxforget.pipeline import run_chain, run_suites
from tests.tiny_run import settings


class Used(Exception):
    """The kernel was called."""


@pytest.fixture
def as_on_a_tpu(monkeypatch):
    """A machine that has the kernel, whose first use is told."""

    def refuse(*_):
        raise Used

    monkeypatch.setattr(forward, "has_splash", lambda mesh: True)
    monkeypatch.setattr(SplashAttention, "__call__", refuse)


def test_plain_attention_is_all_that_a_run_uses(as_on_a_tpu, tiny_world, tmp_path):
    values = settings(
        tiny_world,
        tmp_path / "run",
        model={"attention": "plain", "control": str(tiny_world / "control")},
        anchors={"path": None},  # so that models judge what is found
        targets={"cache": True},
        retain={"path": str(tiny_world / "retain"), "weight": 1.0, "rows": 8},
        evals={"relearn_steps": 1},
    )
    config = config_from(values)
    run_chain(config)
    run_suites(config, "weights,relearning,prompting,memorization")
    with pytest.raises(Used):
        run_chain(config_from(values | {"out": str(tmp_path / "other")}, ["model.attention=auto"]))
