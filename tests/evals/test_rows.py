"""Rows: means, differences to the control item by item, and the tables that print them."""

import csv
import dataclasses
import io

import numpy as np
import pytest

from jaxforget.evals.rows import Row, above_control, make_row, mean_and_worst_rows, mean_row
from jaxforget.evals.tables import attack_lines, effective_attack_lines, metric_lines, rows_csv, rows_markdown


def attack(metric: str, *values: float, model: str = "unlearned", leak: bool = True) -> Row:
    """A row of one value a question."""
    return mean_row(metric, f"about {metric}", model, values, compared=leak)


def test_each_row_is_compared_with_the_controls_item_by_item():
    own = [attack("plain", 0.2, 0.4), attack("int4", 0.5, 0.9), attack("int4_retained", 0.9, 0.7, leak=False)]
    control = [attack("int4", 0.1, 0.1), attack("plain", 0.1, 0.3), attack("int4_retained", 0.8, 0.8)]
    rows = {row.metric: row for row in above_control(own, control)}
    assert list(rows) == ["plain_above_control", "int4_above_control"]
    assert rows["plain_above_control"].value == pytest.approx(0.1)
    # Both questions lie .1 above, so the difference has no uncertainty although the two means have.
    assert (rows["plain_above_control"].low, rows["plain_above_control"].high) == pytest.approx((0.1, 0.1))
    assert rows["int4_above_control"].value == pytest.approx(0.6)
    assert rows["int4_above_control"].convention == "about int4; minus the control's"
    assert rows["int4_above_control"].n == 2
    assert {row.model for row in rows.values()} == {"unlearned"}


def test_no_difference_without_the_same_metric_convention_and_items():
    own = [attack("plain", 0.2, 0.4), attack("back_to_base_25", 0.5, 0.9)]
    assert above_control(own, []) == []
    assert [row.metric for row in above_control(own, [attack("plain", 0, 0)])] == ["plain_above_control"]
    other = dataclasses.replace(attack("plain", 0, 0), convention="another")
    assert above_control(own, [other]) == []
    tokens = dataclasses.replace(attack("plain", 0, 0), items_of="other passages")
    assert above_control(own, [tokens]) == []
    with pytest.raises(ValueError, match="not the same questions"):
        above_control(own, [attack("plain", 0.1)])


def test_mean_and_worst_of_variants():
    values = np.array([[0.1, 0.5], [0.3, 0.1]])
    mean, worst = mean_and_worst_rows("leading", "c", "m", values)
    assert (mean.metric, mean.items) == ("leading", pytest.approx((0.2, 0.3)))
    assert (worst.metric, worst.items) == ("leading_worst", (0.3, 0.5))
    assert "highest of 2 variants" in worst.convention
    (alone,) = mean_and_worst_rows("plain", "c", "m", values[:1])
    assert (alone.metric, alone.items) == ("plain", (0.1, 0.5))


def test_json_has_the_columns_of_the_tables_and_no_items():
    row = make_row("m", "c", "base", 0.5, 3, (0, 1), [0.5, 0.5, 0.5])
    assert row.as_json() == {
        "metric": "m", "convention": "c", "model": "base", "value": 0.5, "low": 0.0, "high": 1.0, "n": 3,
    }  # fmt: skip
    (line,) = csv.DictReader(io.StringIO(rows_csv([make_row("m", "c, d", "base", 0.5, 3)])))
    assert list(line.values()) == ["m", "c, d", "base", "0.5", "", "", "3"]


def test_figures_of_two_conventions_share_no_column():
    rows = [make_row("m", convention, "base", 0.25, 2) for convention in ("one way", "the other")]
    page = rows_markdown({"x": rows})
    assert "| | m [1] | m [2] |" in page
    assert "| base | 0.25 | 0.25 |" in page
    assert "[1] one way; n = 2" in page
    assert "[2] the other; n = 2" in page


def test_lines_have_a_row_a_model_and_a_gap_without_a_figure():
    values = {"base": {"familiarity": 0.5, "perplexity": 12.25}, "unlearned": {"perplexity": 13.0, "steps": 1750}}
    assert metric_lines(values) == [
        "           familiarity   perplexity        steps",
        "base            0.5000      12.2500             ",
        "unlearned                   13.0000        1,750",
    ]
    assert metric_lines({}) == []


def with_control(own: list[Row], control: list[Row]) -> list[Row]:
    return own + above_control(own, control)


def test_attack_lines_show_the_distance_above_the_control():
    control = [attack("plain", 0.1, 0.1, model="control"), attack("int4", 0.0, 0.2, model="control")]
    own = [attack("plain", 0.2, 0.2), attack("int4", 0.5, 0.7)]
    assert attack_lines(control + with_control(own, control)) == [
        "                control         unlearned",
        "plain            0.1000  0.2000 (+0.1000)",
        "int4             0.1000  0.6000 (+0.5000)",
    ]
    assert attack_lines([]) == []


def test_an_effective_attack_lies_further_above_the_control_than_plain_questions():
    names = ("plain", "int4", "leading", "relearn")
    control = [attack(name, 0.1, 0.1, model="control") for name in names]
    own = [
        attack("plain", 0.2, 0.3, model="a"),
        attack("int4", 0.2, 0.4, model="a"),  # further on the mean, but one question is unchanged
        attack("leading", 0.5, 0.5, model="a"),
        attack("relearn", 0.8, 0.9, model="a"),
        attack("kept", 1.0, 1.0, model="a", leak=False),
    ]
    still = [attack("plain", 0.2, 0.3, model="b"), attack("leading", 0.1, 0.1, model="b")]
    rows = with_control(own, control) + with_control(still, control) + control
    assert effective_attack_lines(rows) == [
        "a: brought back, above the control (plain +0.1500): relearn +0.7500, leading +0.4000",
        "b: brought back, above the control (plain +0.1500): no attack",
    ]
    assert effective_attack_lines(with_control(own[1:], control)) == []
