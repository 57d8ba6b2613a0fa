"""Readers of the files in a run's folder."""

import json

import pytest

from jaxforget.errors import UserError
from jaxforget.report.artefacts import flatten, model_order, read_curve, read_metrics, read_suites
from tests.report.synthetic import write_run


def test_models_stand_in_the_order_of_the_method_and_strangers_last():
    names = ["control", "npo", "unlearned", "base", "paper", "npo", "reinforced", "graddiff"]
    assert model_order(names) == ["base", "reinforced", "paper", "unlearned", "control", "npo", "graddiff"]


def test_a_resumed_runs_later_line_counts_and_a_cut_last_line_does_not(tmp_path):
    pairs = [(1, 5.0), (2, 4.0), (3, 3.0), (2, 4.5)]
    lines = [json.dumps({"stage": "forget", "step": step, "loss": loss}) for step, loss in pairs]
    write_run(tmp_path, metrics="\n".join([*lines, '{"stage":"forget","st']))
    rows = read_metrics(tmp_path)["forget"]
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 5.0), (2, 4.5), (3, 3.0)]


def test_figures_that_are_not_finite_count_as_absent_and_rows_are_ordered(tmp_path):
    write_run(
        tmp_path,
        curve='{"rows":[{"step":20,"familiarity":NaN},{"step":0,"familiarity":0.5,"retained":null}]}',
    )
    first, second = read_curve(tmp_path)
    assert (first.step, first.familiarity, first.retained) == (0, 0.5, None)
    assert (second.step, second.familiarity) == (20, None)


@pytest.mark.parametrize("value", [True, "0.5", [0.5]])
def test_a_figure_of_another_kind_is_refused_and_not_converted(tmp_path, value):
    run = write_run(tmp_path, curve={"rows": [{"step": 0, "familiarity": value}]})
    with pytest.raises(UserError, match=r"curve\.json: rows\[0\]\.familiarity is .*, but must be a number"):
        read_curve(run)


def test_nested_settings_get_dotted_names():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None}) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_evaluations_between_the_steps_are_no_training_steps(tmp_path):
    """Before, an evaluation replaced the step of its number: the loss had a gap, and step 0 was counted as a step."""
    forget = read_metrics(write_run(tmp_path))["forget"]
    assert len(forget) == 120
    assert all("loss" in row for row in forget)


def test_suites_are_found_by_metric_and_convention(tmp_path):
    suites = read_suites(write_run(tmp_path))
    assert suites["familiarity", "mean token probability"] == "probability"
