"""The audit on words and probabilities given by hand."""

import math

import numpy as np
import pytest

from jaxforget.evals.audit import (
    Audited,
    Passage,
    audit_rows,
    cut_words,
    excess,
    first_anchors,
    leaks,
    ranked,
    word_probabilities,
)
from tests.evals.words import Table, Words

# Of two passages: the model's and the control's probability of each word.
IDS = ((0, 1, 2, 3), (0, 4, 2, 3))
PASSAGES = [Passage(ids, ((1, 2), (2, 3), (3, 4))) for ids in IDS]
MODEL = [np.array([0.9, 0.5, 0.3]), np.array([0.2, 0.8, 0.05])]
OTHER = [np.array([0.1, 0.5, 0.25]), np.array([0.25, 0.1, 0.05])]
SPELLED = {1: " Ada", 2: " met", 3: " Bo,", 4: " Cy"}


def audit(passages, model, reference, watched=None):
    """Passages under two models; every word counts unless `watched` says otherwise."""
    watched = [np.ones(len(passage.words), bool) for passage in passages] if watched is None else watched
    return [Audited(*parts) for parts in zip(passages, model, reference, watched, strict=True)]


def spell(ids):
    return "".join(SPELLED[i] for i in ids)


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["<s>", "ĠZor", "vath", "'", "s", "Ġhat", ".", "Ċ", "The"], ["ĠZor vath", "'", "s", "Ġhat", ".", "Ċ", "The"]),
        (["<s>", "▁Thorn", "sp", "ire", '"', "No", "<0x0A>", "x"], ["▁Thorn sp ire", '"', "No", "<0x0A>", "x"]),
        (["Ġa", "b", "c"], ["b c"]),  # the first token has nothing before it
    ],
)
def test_words_begin_at_blanks_marks_and_line_ends(pieces, words):
    passage = cut_words(range(len(pieces)), pieces)
    assert [" ".join(pieces[first:end]) for first, end in passage.words] == words


def test_a_words_probability_is_the_product_of_its_tokens():
    tokenizer = Words("one two three")
    table = Table(tokenizer, {"one": math.log(0.5), "two": math.log(0.25), "three": math.log(0.5)})
    ids = tuple(tokenizer("one two three")["input_ids"])
    (found,) = word_probabilities(table, None, [Passage(ids, ((1, 3), (3, 4)))])
    assert found == pytest.approx([0.125, 0.5])


def test_against_a_control_every_word_counts():
    found = audit(PASSAGES, MODEL, OTHER)
    assert [leaks(a, control=True).tolist() for a in found] == [[True, False, False], [False, True, False]]
    assert excess(found[0], control=True) == pytest.approx([0.8, 0, 0.05])
    assert excess(found[1], control=True) == pytest.approx([0, 0.7, 0])
    rows = {row.metric: row for row in audit_rows(found, control=True, model="m")}
    assert rows["audit_leaked"].value == pytest.approx(2 / 6)
    assert rows["audit_excess"].value == pytest.approx(1.55 / 6)
    assert rows["audit_excess"].n == 6
    # One word in six, the first of the second passage, lies below, but by less than a tenth.
    assert rows["audit_below"].value == 0
    swapped = {row.metric: row for row in audit_rows(audit(PASSAGES, OTHER, MODEL), control=True, model="m")}
    assert swapped["audit_below"].value == rows["audit_leaked"].value
    # Drawn by passage: a mean of .85 / 3 or .7 / 3, or of both.
    assert rows["audit_excess"].low == pytest.approx(0.7 / 3)
    assert rows["audit_excess"].high == pytest.approx(0.85 / 3)


def test_without_one_only_anchors_that_base_knows_count():
    watched = [np.array([True, False, True]), np.array([True, True, True])]
    found = audit(PASSAGES, [np.array([0.9, 0.9, 0.09]), np.array([0.5, 0.3, 0.95])],
                  [np.array([0.95, 0.9, 0.09]), np.array([0.9, 0.3, 0.9])], watched)  # fmt: skip
    # .9 of .95; unwatched; unknown to base | fallen far; as base; above base.
    assert [leaks(a, control=False).tolist() for a in found] == [[True, False, False], [False, True, True]]
    rows = {row.metric: row for row in audit_rows(found, control=False, model="m")}
    assert rows["audit_leaked"].value == pytest.approx(3 / 5)
    assert rows["audit_excess"].value == pytest.approx((0.9 + 0.3 + 0.95) / 5)
    assert "base" in rows["audit_leaked"].convention


def test_nothing_watched_gives_no_rows():
    nothing = [np.zeros(3, bool)] * 2
    assert audit_rows(audit(PASSAGES, MODEL, OTHER, nothing), control=False, model="m") == []


def test_an_anchor_counts_at_its_first_place_only():
    passage = Passage((0, 1, 2, 3, 4, 5), ((1, 3), (3, 4), (4, 5), (5, 6)))
    spans = np.array([[2, 1, 7], [3, 1, 8], [4, 2, 7]])
    assert first_anchors(passage, spans).tolist() == [True, True, False, False]
    assert not first_anchors(passage, np.zeros((0, 3), int)).any()


def test_what_to_read_worst_first():
    found = ranked(audit(PASSAGES, MODEL, OTHER), spell, control=True)
    assert found["against"] == "control"
    assert [(w["word"], w["count"], w["leaked"]) for w in found["words"]] == [
        ("Ada", 1, 1),
        ("met", 2, 1),
        ("Bo", 2, 0),
    ]
    met = found["words"][1]
    assert (met["model"], met["reference"]) == (pytest.approx(0.65), pytest.approx(0.3))
    assert [p["number"] for p in found["passages"]] == [0, 1]
    assert [p["excess"] for p in found["passages"]] == pytest.approx([0.85 / 3, 0.7 / 3])
    assert found["passages"][0]["words"][0] == {"text": " Ada", "model": 0.9, "reference": 0.1, "leaked": True}
    assert len(ranked(audit(PASSAGES, MODEL, OTHER), spell, control=True, passages=1)["passages"]) == 1
    # As often below as above: the word tells nothing, though one of its places leaks.
    even = [np.array([0.9, 0.5, 0.3]), np.array([0.2, 0.1, 0.05])]
    other = [np.array([0.1, 0.2, 0.3]), np.array([0.2, 0.5, 0.05])]
    assert [word["word"] for word in ranked(audit(PASSAGES, even, other), spell, control=True)["words"]] == ["Ada"]
    clean = ranked(audit(PASSAGES, OTHER, OTHER), spell, control=True)
    assert clean["words"] == clean["passages"] == []
