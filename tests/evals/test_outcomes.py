"""Rows of attacks: means, paired differences to the control, and the table that prints them."""

import json

import numpy as np
import pytest

from jaxforget.evals.outcomes import Outcome, brought_back, leak_table, outcome_rows, repeated


def outcome(attack: str, *values: float, leak: bool = True) -> Outcome:
    return Outcome(attack, f"about {attack}", np.array(values), leak)


def test_each_attack_is_read_against_the_same_attack_on_the_control():
    mine = [outcome("plain", 0.2, 0.4), outcome("int4", 0.5, 0.9), outcome("int4_retained", 0.9, 0.7, leak=False)]
    control = [outcome("int4", 0.1, 0.1), outcome("plain", 0.1, 0.3), outcome("int4_retained", 0.8, 0.8, leak=False)]
    rows = {row["metric"]: row for row in outcome_rows(mine, control, "unlearned")}
    assert list(rows) == ["plain", "int4", "int4_retained", "plain_above_control", "int4_above_control"]
    assert rows["int4"]["value"] == pytest.approx(0.7)
    assert rows["plain_above_control"]["value"] == pytest.approx(0.1)
    # Paired: both questions lie .1 above, so there is nothing uncertain about it.
    assert (rows["plain_above_control"]["low"], rows["plain_above_control"]["high"]) == pytest.approx((0.1, 0.1))
    assert rows["int4_above_control"]["value"] == pytest.approx(0.6)
    assert rows["int4_above_control"]["convention"] == "about int4; minus the control's under the same attack"
    assert rows["int4_above_control"]["n"] == 2
    assert {row["model"] for row in rows.values()} == {"unlearned"}


def test_without_a_control_or_without_that_attack_on_it_there_is_no_difference():
    mine = [outcome("plain", 0.2, 0.4), outcome("back_to_base_25", 0.5, 0.9)]
    assert [row["metric"] for row in outcome_rows(mine, None, "m")] == ["plain", "back_to_base_25"]
    rows = outcome_rows(mine, [outcome("plain", 0, 0)], "m")
    assert [row["metric"] for row in rows] == ["plain", "back_to_base_25", "plain_above_control"]


def test_other_questions_are_no_comparison():
    with pytest.raises(ValueError, match="not the same questions"):
        outcome_rows([outcome("plain", 0.2, 0.4)], [outcome("plain", 0.1)], "m")


def test_mean_and_worst_of_variants():
    values = np.array([[0.1, 0.5], [0.3, 0.1]])
    mean, worst = repeated("leading", "c", values)
    assert (mean.attack, mean.values.tolist()) == ("leading", pytest.approx([0.2, 0.3]))
    assert (worst.attack, worst.values.tolist()) == ("leading_worst", [0.3, 0.5])
    assert "highest of 2 variants" in worst.convention
    (alone,) = repeated("plain", "c", values[:1])
    assert (alone.attack, alone.values.tolist()) == ("plain", [0.1, 0.5])


def test_outcomes_survive_json():
    before = outcome("plain", 1 / 3, 0.25, leak=False)
    after = Outcome.from_json(json.loads(json.dumps(before.as_json())))
    assert (after.attack, after.convention, after.leak) == ("plain", "about plain", False)
    assert after.values.tolist() == before.values.tolist()


def test_the_table_stands_every_model_beside_the_control():
    control = [outcome("plain", 0.1, 0.1), outcome("int4", 0.0, 0.2)]
    mine = [outcome("plain", 0.2, 0.2), outcome("int4", 0.5, 0.7)]
    rows = outcome_rows(control, None, "control") + outcome_rows(mine, control, "unlearned")
    assert leak_table(rows) == [
        "                control         unlearned",
        "plain            0.1000  0.2000 (+0.1000)",
        "int4             0.1000  0.6000 (+0.5000)",
    ]
    assert leak_table([]) == []


def test_what_brings_back_lies_further_above_the_control_than_plain_questions():
    control = [outcome(name, 0.1, 0.1) for name in ("plain", "int4", "leading", "relearn")]
    mine = [
        outcome("plain", 0.2, 0.3),
        outcome("int4", 0.2, 0.4),  # further on the mean, but one question is where it was
        outcome("leading", 0.5, 0.5),
        outcome("relearn", 0.8, 0.9),
        outcome("kept", 1.0, 1.0, leak=False),
    ]
    still = [outcome("plain", 0.2, 0.3), outcome("leading", 0.1, 0.1)]
    rows = [row for some, name in ((mine, "a"), (still, "b")) for row in outcome_rows(some, control, name)]
    assert brought_back(rows + outcome_rows(control, None, "control")) == [
        "a: brought back, above the control (plain +0.1500): relearn +0.7500, leading +0.4000",
        "b: brought back, above the control (plain +0.1500): no attack",
    ]
    assert brought_back(outcome_rows(mine[1:], control, "a")) == []
