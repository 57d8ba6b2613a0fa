"""The split of questions, and the score."""

import pytest

from jaxforget.compare.measures import figures_of, forgotten, kept, score, split_answers, split_questions
from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.evals.rows import Row

BASE = {"familiarity": 0.9, "margin": 9.0, "relearned": None, "retained": 0.8, "perplexity": 10.0}
CONTROL = {"familiarity": 0.0, "margin": -1.0, "relearned": 0.1, "retained": 0.8, "perplexity": 10.0}


def figures(**changed):
    return {"familiarity": 0.0, "margin": -1.0, "relearned": 0.1, "retained": 0.8, "perplexity": 10.0, **changed}


def test_every_answer_is_in_one_half_and_both_halves_hold_half_of_every_group():
    target, other = [f" name {i}" for i in range(10)] * 4, [f" place {i}" for i in range(7)]
    parts = split_answers([target, other, ["name 3", "unknown"]])
    for group in (target, other):
        counts = [len({answer.strip() for answer in group if parts[answer.strip()] == part}) for part in parts.values()]
        assert max(counts) - min(counts) <= 1
    assert parts == split_answers([target[::-1], other, ["unknown", "name 3"]])


def test_the_score_is_one_at_the_control_and_zero_at_base():
    assert score(figures(), BASE, CONTROL) == pytest.approx(1)
    assert forgotten({**BASE, "relearned": 0.9}, BASE, CONTROL) == 0
    # .3 of the way in familiarity, .5 in the margin, .75 in relearned familiarity
    some = figures(familiarity=0.63, margin=4.0, relearned=0.3)
    assert forgotten(some, BASE, CONTROL) == pytest.approx(3 / (1 / 0.3 + 1 / 0.5 + 1 / 0.75))
    assert kept(figures(retained=0.4), BASE) == pytest.approx(2 / (1 / 0.5 + 1))


def test_beyond_the_control_is_as_far_from_it_as_before_it():
    shares = [forgotten(figures(margin=margin), BASE, CONTROL) for margin in (1.0, -3.0)]
    assert shares[0] == pytest.approx(shares[1])
    assert shares[0] < 1


def test_without_a_control_its_place_is_taken_by_zero():
    share = forgotten(figures(familiarity=0.45, margin=None, relearned=None), BASE, None)
    assert share == pytest.approx(0.5)


def test_the_choice_leaves_perplexity_out_where_there_are_retained_questions():
    worse = figures(perplexity=20.0)
    assert kept(worse, BASE, choosing=True) == 1
    assert kept(worse, BASE) == pytest.approx(2 / 3)
    unasked = {**worse, "retained": None}
    assert kept(unasked, {**BASE, "retained": None}, choosing=True) == pytest.approx(0.5)


def test_relearned_is_the_last_step_and_missing_figures_are_none():
    rows = [Row(f"relearn_target_{step}", "", "m", step / 100) for step in (0, 3, 24, 12)]
    found = figures_of([*rows, Row("target_margin", "", "m", 2.0), Row("retained_margin", "", "m", 5.0)])
    assert found["relearned"] == 0.24
    assert found["margin"] == 2.0
    assert found["familiarity"] is None


@pytest.mark.parametrize(
    ("evals", "message"),
    [
        ({}, "evals.probes is not set"),
        ({"probes": '{"familiarity": [{"prompt": "a", "answer": " b"}]}'}, "familiarity needs questions with at least"),
        (
            {"probes": '{"familiarity": [{"prompt": "a", "answer": " b"}, {"prompt": "a", "answer": " c"}]}'},
            "nothing says what a method must keep",
        ),
    ],
)
def test_questions_that_cannot_be_split(tmp_path, evals, message):
    if "probes" in evals:
        (tmp_path / "probes.json").write_text(evals["probes"])
        evals = {"probes": str(tmp_path / "probes.json")}
    with pytest.raises(UserError, match=message):
        split_questions(config_from({"evals": evals}), tmp_path / "out")
