"""The trials of a method, and the configuration of each."""

import pytest

from jaxforget.compare.search import MOST_TRIALS, Trial, method_config, search, unused_settings
from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.stages.build import make_objective
from jaxforget.train.objectives import METHODS

RETAIN = {"path": "kept", "weight": 25.0, "rows": 16}


def test_trials_start_at_the_configured_settings_and_are_no_more_than_the_budget():
    config = config_from({"forget": {"learning_rate": 5e-4}, "retain": RETAIN})
    trials = search(config, "whp")
    assert trials[0].settings == {"forget.learning_rate": 5e-4, "retain.weight": 25.0}
    assert len({trial.name for trial in trials}) == len(trials) == MOST_TRIALS == 12
    assert {trial.settings["retain.weight"] for trial in trials} == {25.0, 6.25, 100.0}
    assert {trial.settings["forget.learning_rate"] for trial in trials} == {5e-4, 1.67e-4, 1.5e-3, 5e-5}


def test_what_a_configuration_lacks_is_not_searched():
    config = config_from({"forget": {"learning_rate": 5e-4}})
    assert [set(trial.settings) for trial in search(config, "whp")] == [{"forget.learning_rate"}] * 4
    assert [set(trial.settings) for trial in search(config, "task_vector")] == [{"objective.strength"}] * 3


def test_the_strength_is_the_weight_of_the_retain_term_where_there_is_one():
    with_term, without = config_from({"retain": RETAIN}), config_from({})
    assert set(search(with_term, "npo")[0].settings) == {"forget.learning_rate", "retain.weight"}
    assert set(search(without, "npo")[0].settings) == {"forget.learning_rate", "objective.beta"}
    assert set(search(with_term, "pdu")[0].settings) == {"forget.learning_rate", "objective.epsilon"}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_trials_that_its_objective_accepts(method):
    values = {"method": "npo", "objective": {"beta": 0.2}, "retain": {**RETAIN, "loss": "kl"}}
    config = config_from(values)
    for trial in search(config, method):
        configured = trial.configure(config)
        objective = make_objective(configured)
        for option, value in trial.settings.items():
            section, _, key = option.partition(".")
            if section == "objective":
                assert getattr(objective, key) == value
        assert (configured.objective == {"beta": 0.2}) == (method == "npo")


def test_options_of_another_method_are_reset_and_described():
    values = {"targets": {"suppress": "all", "cache": True}, "retain": {**RETAIN, "loss": "kl"}}
    config = config_from(values)
    assert method_config(config, "whp").targets.suppress == "all"
    described = Trial("pdu", {"objective.epsilon": 0.5}).describe(config)
    assert described == {
        "method": "pdu",
        "targets.suppress": "seen",
        "targets.cache": False,
        "retain.loss": "nll",
        "objective.epsilon": 0.5,
    }


def test_a_setting_that_the_own_method_lacks_is_meant_for_the_others():
    config = config_from({"method": "npo", "objective": {"beta": 0.2, "layer": 1}})
    assert method_config(config, "rmu").objective == {"layer": 1}
    assert method_config(config, "npo").objective == {"beta": 0.2}
    assert method_config(config, "undial").objective == {}
    assert search(config, "rmu")[0].describe(config)["objective.layer"] == 1
    assert unused_settings(config, ["rmu", "undial"]) == {}
    assert unused_settings(config, ["whp", "undial"]) == {"layer": ["rmu"]}
    config = config_from({"objective": {"layr": 1}, "method": "npo"})
    with pytest.raises(
        UserError, match=r"objective\.layr: no method has such a setting; the compared ones have beta, layer, near"
    ):
        unused_settings(config, ["rmu"])
