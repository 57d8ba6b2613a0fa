"""Figures: numbers land where they should, labels do not touch, and the text is XML."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxforget.report.plots import Line, bucketed, chart, quantity_chart, space_labels, trade_off
from jaxforget.report.tones import model_tones
from tests.report.synthetic import FAMILIARITY, PERPLEXITY, RETAINED, STEPS

ROWS = [
    {"step": s, "familiarity": f, "retained": r, "perplexity": p}
    for s, f, r, p in zip(STEPS, FAMILIARITY, RETAINED, PERPLEXITY, strict=True)
]


@given(st.lists(st.floats(-50, 300), min_size=1, max_size=9), st.floats(1, 20))
def test_spread_keeps_order_bounds_and_gap(wanted, gap):
    placed = space_labels(wanted, gap, 0.0, 200.0)
    assert all(-1e-6 <= p <= 200 + 1e-6 for p in placed)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    steps = [placed[b] - placed[a] for a, b in zip(order, order[1:], strict=False)]
    assert all(step >= gap - 1e-6 for step in steps)


def test_spread_leaves_what_is_far_apart():
    assert space_labels([100.0, 10.0, 50.0], 13, 0, 200) == [100.0, 10.0, 50.0]


def test_spread_goes_to_both_sides():
    assert space_labels([90.0, 90.0, 90.0, 150.0], 10, 0, 200) == [80.0, 90.0, 100.0, 150.0]
    assert space_labels([5.0, 5.0], 20, 0, 200) == [0.0, 20.0]


def test_a_line_lands_on_its_axes():
    svg = chart(
        [Line(((0, 0.0), (50, None), (100, 1.0)), "base", "a")],
        [(0, "0"), (100, "100")],
        [0.0, 1.0],
        described="",
    )
    grid = [tuple(map(float, m)) for m in re.findall(r'x1="([\d.]+)" x2="([\d.]+)" y1="([\d.]+)"', svg)]
    (left, right, bottom), (_, _, top) = grid
    circles = [tuple(map(float, m)) for m in re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert circles == [(left, bottom), (right, top)]
    # The gap breaks the line: two moves, no stroke across.
    assert svg.count("M") - svg.count("leader") == 2


def test_a_single_row_is_a_reference_and_absent_quantities_are_no_figure():
    svg = quantity_chart("familiarity", {"control": [{"step": 0, "familiarity": 0.03}], "unlearned": ROWS})
    assert svg.count("dashed") == 1
    assert "unlearned 0.044" in svg
    assert "control 0.030" in svg
    assert quantity_chart("retained", {"unlearned": [{"step": 0, "retained": None}]}) is None


def test_curves_of_several_students_have_different_colours():
    svg = quantity_chart("familiarity", {"one: unlearned": ROWS, "two: unlearned": ROWS})
    assert "t-other1" in svg
    assert "t-other2" in svg


def test_a_flat_perplexity_is_not_blown_up():
    svg = quantity_chart("perplexity", {"unlearned": [{"step": s, "perplexity": 12.3 + s * 1e-4} for s in (0, 9)]})
    heights = [float(y) for y in re.findall(r'cy="([\d.]+)"', svg)]
    assert len(heights) == 2
    assert max(heights) - min(heights) < 3


def test_long_series_are_thinned_to_means():
    points = tuple((float(i), float(i % 2)) for i in range(10_000))
    thin = bucketed(points, 100)
    assert len(thin) == 100
    assert thin[-1][0] == 9999.0
    assert all(y == 0.5 for _, y in thin)
    assert bucketed(points[:5], 100) == points[:5]


def test_the_scatter_puts_better_models_to_the_left_and_to_the_top():
    points = {"base": (0.9, 0.9), "unlearned": (0.01, 0.91), "control": (0.0, 0.88), "<harmful>": (0.01, 0.4)}
    svg = trade_off(points, model_tones(points))
    ElementTree.fromstring(svg)
    drawn = re.findall(r'<g class="t-(\w+)">.*?cx="([\d.]+)" cy="([\d.]+)"', svg)
    at = {tone: (float(x), float(y)) for tone, x, y in drawn}
    assert at["unlearned"][0] < at["base"][0]
    assert at["unlearned"][1] < at["other1"][1]
    labels = [float(y) for y in re.findall(r'<text class="label"[^>]* y="([\d.]+)"', svg)]
    assert len(labels) == 4
    assert abs(labels[0] - labels[1]) >= 13, "labels of neighbouring points do not touch"
    assert "&lt;harmful&gt;" in svg


def test_a_label_is_not_written_over_the_interval_of_its_point():
    points = {"base": (0.9, 0.9), "npo": (0.1, 0.5)}
    svg = trade_off(points, model_tones(points), intervals={"base": (0.1, 0.0), "npo": (0.0, 0.0)})
    found = re.findall(r'cx="[\d.]+" cy="([\d.]+)"/><text class="label"[^>]* y="([\d.]+)"[^>]*>(\w+)<', svg)
    shift = {name: float(dot) - (float(text) - 4) for dot, text, name in found}
    assert shift["base"] == pytest.approx(11, abs=0.2)
    assert shift["npo"] == pytest.approx(0, abs=0.2)


def test_labels_of_points_on_both_sides_of_the_middle_do_not_touch():
    """Before, the label of a point left of the middle and that of one right of it were written over each other."""
    points = {"undial": (4.6, 0.91), "whp": (5.9, 0.92), "base": (9.7, 0.92), "control": (0.0, 0.9)}
    svg = trade_off(points, model_tones(points))
    drawn = re.findall(r'text-anchor="(\w+)" x="([\d.]+)" y="([\d.]+)">(\w+)<', svg.split("</text><g", 1)[1])
    boxes = []
    for anchor, x, y, name in drawn:
        if name in points:
            left = float(x) - (6 * len(name) if anchor == "end" else 0)
            boxes.append((left, left + 6 * len(name), float(y)))
    assert len(boxes) == 4
    for i, (left, right, y) in enumerate(boxes):
        assert all(other[0] > right or other[1] < left or abs(other[2] - y) >= 12.9 for other in boxes[i + 1 :])
