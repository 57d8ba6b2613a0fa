"""Colours have contrast, and numbers and axes are written as people write them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxforget.report.tones import (
    TONES,
    escape,
    figure,
    light_style,
    model_tones,
    share,
    step_ticks,
    style,
    tick_texts,
    ticks,
)

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0444, "0.044"), (0.93, "0.930"), (12.31, "12.3"), (8241.7, "8,242"), (3e-6, "3.0e−6"), (0, "0"),
        (-1.5, "−1.50"), (None, "–"), (float("nan"), "–"), (4096.0, "4,096"), (2.5e9, "2.5e9"),
    ],
)  # fmt: skip
def test_figures_are_written_as_people_write_them(value, text):
    assert figure(value) == text


@given(NUMBERS, st.floats(1e-6, 1e6))
def test_ticks_enclose_the_data_evenly_and_are_few(low, width):
    found = ticks(low, low + width)
    slack = 1e-6 * (abs(low) + width)
    assert found[0] <= low + slack
    assert found[-1] >= low + width - slack
    assert 2 <= len(found) <= 8
    gaps = [b - a for a, b in zip(found, found[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1e-6 * max(map(abs, found)) + 1e-9


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.0, 0.25, 0.5], ["0.00", "0.25", "0.50"]),
        ([0.0, 500.0, 1000.0], ["0", "500", "1,000"]),
        # Of a learning rate: before, these were 0, 2.0e−4, 4.0e−4 and 0.001.
        ([0.0, 2e-4, 4e-4, 6e-4], ["0", "2e−4", "4e−4", "6e−4"]),
        ([0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3], ["0", "0.25e−3", "0.50e−3", "0.75e−3", "1.00e−3"]),
        ([-2e5, 0.0, 2e5], ["−2e5", "0", "2e5"]),
    ],
)
def test_ticks_are_named_alike(values, texts):
    assert tick_texts(values) == texts


@given(st.floats(0, 1), st.floats(1e-9, 1e9))
def test_ticks_have_different_names_that_say_their_values(low, width):
    values = ticks(low, low + width)
    texts = tick_texts(values)
    assert len(set(texts)) == len(texts)
    step = values[1] - values[0]
    for value, text in zip(values, texts, strict=True):
        assert abs(float(text.replace("−", "-").replace(",", "")) - value) <= 0.01 * step + 1e-12


def test_ticks_of_steps_end_at_the_last_step():
    assert step_ticks([0, 20, 40, 60, 80, 100, 120])[-1] == (120.0, "120")
    assert [x for x, _ in step_ticks([7])] == [7.0, 8.0]


def test_escape_leaves_no_markup_and_no_forbidden_characters():
    assert escape("<b>\"'&\x0b\ud83d") == "&lt;b&gt;&quot;&#x27;&amp;\ufffd\ufffd"


def test_models_that_the_method_does_not_name_have_different_tones():
    tones = model_tones(["base", "npo", "unlearned", "graddiff", "npo"])
    assert tones == {"base": "base", "npo": "other1", "unlearned": "unlearned", "graddiff": "other2"}


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", sorted(set(TONES) - {"grid", "page"}))
@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_tone_can_be_read_on_its_page(name, scheme):
    lighter, darker = sorted((luminance(TONES[name][scheme]), luminance(TONES["page"][scheme])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5
    assert f"--{name}:{TONES[name][scheme]};" in style()


@pytest.mark.parametrize("family", ["fell", "rose", "other"])
def test_the_tones_of_one_figure_differ(family):
    for scheme in (0, 1):
        colours = [pair[scheme] for name, pair in TONES.items() if name.startswith(family)]
        assert len(set(colours)) == len(colours) == 6


def test_small_probabilities_are_no_powers_of_ten():
    assert [share(v) for v in (0.0, 1.7e-6, 0.0005, 0.9, None)] == ["0", "<0.001", "0.001", "0.900", "–"]


def test_the_light_style_has_no_custom_properties_and_every_rule():
    plain = light_style()
    assert "var(" not in plain
    for selector, declared in re.findall(r"(svg [.\w]+)\{([^}]*)\}", style()):
        for one in declared.split(";"):
            name = one.partition(":")[0]
            assert f"{selector}{{{name}:" in plain or f" {selector.removeprefix('svg ')}{{{name}:" in plain, one
    assert f".t-base .label{{fill:{TONES['base'][0]}}}" in plain
