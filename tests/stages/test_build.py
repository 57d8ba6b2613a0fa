"""Objectives and their passes from a configuration."""

import pytest

from jaxforget.config import load_config
from jaxforget.errors import UserError
from jaxforget.stages.build import Passes, make_objective, make_retain, passes
from jaxforget.train.objectives import METHODS, NextToken, Retain

RETAIN = ("retain.path=x", "retain.rows=8", "retain.weight=2")


def objective(*words):
    return make_objective(load_config(None, list(words)))


def fault(*words) -> str:
    with pytest.raises(UserError) as caught:
        objective(*words)
    return str(caught.value)


def test_the_schema_s_options_reach_the_method():
    assert objective("targets.alpha=3", "targets.cache=true") == METHODS["whp"](alpha=3.0, cached=True)
    assert objective("method=whp_soft", "targets.alpha=2") == METHODS["whp_soft"](alpha=2.0)
    assert objective("objective.weight=0.5") == METHODS["whp"](weight=0.5)
    assert make_objective(load_config(None), "reinforce") == NextToken()


def test_what_a_method_lacks_is_refused_by_name():
    assert "method=whp_sof: no such method; did you mean whp_soft?" in fault("method=whp_sof")
    assert fault("objective.beta=1").startswith(
        "objective.beta: method whp has no such setting; it has objective.weight"
    )
    assert "targets.cache" in fault("method=whp_soft", "targets.cache=true")


def test_the_retain_term():
    assert make_retain(load_config(None)) is None
    assert make_retain(load_config(None, [*RETAIN])) == Retain(2.0, "kl")
    assert make_retain(load_config(None, [*RETAIN, "retain.loss=nll"])) == Retain(2.0, "nll")


@pytest.mark.parametrize(
    ("stage", "words", "expected"),
    [
        ("reinforce", (), Passes(base=False, reinforced=False, frozen=0, trained=1)),
        ("reinforce", ("reinforce.weights=lora",), Passes(base=True, reinforced=False, frozen=0, trained=1)),
        ("forget", (), Passes(base=True, reinforced=True, frozen=2, trained=1)),
        ("forget", ("targets.cache=true",), Passes(base=False, reinforced=False, frozen=0, trained=1)),
        ("forget", ("targets.cache=true", *RETAIN), Passes(base=True, reinforced=False, frozen=1, trained=1)),
        (
            "forget",
            ("targets.cache=true", "retain.loss=nll", *RETAIN),
            Passes(base=False, reinforced=False, frozen=0, trained=1),
        ),
    ],
)
def test_a_step_is_given_the_models_that_it_runs(stage, words, expected):
    assert passes(load_config(None, list(words)), stage) == expected
