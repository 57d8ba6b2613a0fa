"""The figure of one prompt's next tokens."""

import re

from jaxforget.report.artefacts import Dynamics, TokenProbability
from jaxforget.report.dynamics import columns, dynamics_chart, leading_tokens, spelled


def top(**probabilities: float) -> tuple[TokenProbability, ...]:
    return tuple(TokenProbability("▁" + name, p) for name, p in probabilities.items())


RUN = Dynamics(
    "Harry Potter studies",
    {"base": top(magic=0.9, the=0.05), "control": top(the=0.5, art=0.2)},
    {20: top(the=0.4, magic=0.1), 40: top(the=0.6, art=0.3)},
)


def test_columns_run_from_base_over_the_steps_to_control():
    names = [name for _, name, _ in columns(RUN)]
    assert names == ["0", "20", "40", "control"]
    xs = [x for x, _, _ in columns(RUN)]
    assert xs == sorted(xs)
    measured = Dynamics(RUN.prompt, RUN.models, {0: top(magic=0.8), **RUN.steps})
    assert columns(measured)[0][2] == top(magic=0.8)


def test_tokens_that_led_anywhere_get_a_line():
    assert leading_tokens(RUN) == ["▁magic", "▁the", "▁art"]


def test_tokens_that_fall_and_that_rise_have_tones_of_their_own():
    svg = dynamics_chart(RUN)
    assert "t-fell1" in svg
    assert "t-rose1" in svg


def test_labels_are_the_students_last_figures_and_the_controls_are_rings():
    svg = dynamics_chart(RUN)
    # Outside the list of step 40, "magic" is drawn at that list's smallest probability.
    assert "·magic 0.300" in svg
    assert "·the 0.600" in svg
    assert "·art 0.300" in svg
    assert svg.count('class="hollow"') == 3
    assert "0.500" not in svg, "the control's probability is no label"


def test_no_colour_repeats_in_one_figure():
    six = [f"t{i}" for i in range(6)]
    low, high = top(**dict.fromkeys(six, 0.1)), top(**dict.fromkeys(six, 0.5))
    for steps in ({0: low, 9: high}, {0: high, 9: low}):
        found = re.findall(r'<g class="t-(\w+)"><path class="line"', dynamics_chart(Dynamics("p", {}, steps)))
        assert len(found) == len(set(found)) == 6


def test_little_to_draw_is_no_error():
    assert dynamics_chart(Dynamics("p", {}, {})) is None
    assert "·x" in dynamics_chart(Dynamics("p", {"control": top(x=0.2)}, {}))
    assert "·x" in dynamics_chart(Dynamics("p", {}, {3: top(x=0.2)}))


def test_tokens_are_spelled_for_readers():
    spellings = {"▁magic": "·magic", "Ġmagic": "·magic", "ish": "ish", "\n": "⏎", "<0x0A>": "⏎", "▁": "·"}
    assert {token: spelled(token) for token in spellings} == spellings
    assert len(spelled("x" * 99)) == 16
