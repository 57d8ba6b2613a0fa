"""Passages, questions, and the union of answers that the test wrote itself."""

import pytest

from jaxforget.anchors.asking import Expressions, choose_passages, questions, unite
from jaxforget.corpus.text import Document
from tests.anchors.samples import TALE

DOCUMENTS = [Document("a", TALE), Document("b", "Nobody met Tamsin again. " * 200)]


def answer(*items: tuple) -> Expressions:
    return Expressions(
        expressions=[{"expression": e, "kind": kind, "alternatives": list(generic)} for e, kind, *generic in items]
    )


def test_passages_are_of_the_text_and_spread_over_it():
    passages = choose_passages(DOCUMENTS, 100, seed=0, length=400)
    whole = [one.text for one in DOCUMENTS]
    assert all(any(passage in text for text in whole) for passage in passages)
    # A passage begins at a whole word.
    assert all(any(f" {p}" in f" {t}" or f"\n{p}" in t for t in whole) for p in passages)
    expected = sum(-(-len(text) // 400) for text in whole)
    assert len(passages) == expected, "fewer pieces than asked for: each is asked about once"
    assert 0.95 * sum(map(len, whole)) < sum(map(len, passages)) + expected * 12


def test_more_calls_ask_only_what_is_new():
    few, more = (choose_passages(DOCUMENTS, count, seed=3, length=400) for count in (5, 9))
    assert more[:5] == few
    assert choose_passages(DOCUMENTS, 5, seed=4, length=400) != few


def test_a_question_holds_its_passage_and_what_is_wanted():
    ((system, user),) = questions(["Tamsin {ran}."])
    assert (system["role"], user["role"]) == ("system", "user")
    assert "<<<\nTamsin {ran}.\n>>>" in user["content"]
    assert "person, place, thing, craft, creature, saying" in user["content"]


def test_answers_are_united_with_all_their_translations():
    passages = ["Tamsin took the lumestone to Brackwater.", "Tamsin's lumestone", "The Sunken\nGate rose."]
    answers = [
        answer(("Tamsin", "person", "Anna", "Ruth"), ("lumestone", "thing", "lamp"), ("Gandalf", "person", "Bob")),
        answer(
            ("Tamsin's", "person", "Ruth", "Kate"), ("lumestone", "saying", "lamp"), ("lumestone", "thing", "torch")
        ),
        None,
    ]
    anchors, notes = unite(passages, answers, DOCUMENTS)
    assert dict(anchors.entries) == {"Tamsin": ("Anna", "Ruth", "Kate"), "lumestone": ("lamp", "torch")}
    assert notes == ["1 expressions omitted: their passage does not contain them"]
    told = anchors.evidence["Tamsin"]
    assert (told["kind"], told["answers"]) == ("person", 2)
    assert told["count"] == sum(one.text.count("Tamsin") for one in DOCUMENTS)
    assert "Tamsin" in told["example"]
    assert anchors.evidence["lumestone"]["kind"] == "thing"


def test_names_over_lines_and_alternatives_that_will_not_do():
    passages = ["The Sunken\nGate rose over Brackwater."]
    answers = [
        answer(
            ("Sunken Gate", "place", "Brackwater", "Old Door"),
            ("Brackwater", "place", "brackwater", "BRACKWATER"),
            ("Gate", "door", "Fence"),
        )
    ]
    anchors, notes = unite(passages, answers, DOCUMENTS)
    assert dict(anchors.entries) == {"Sunken Gate": ("Old Door",), "Gate": ("Fence",)}
    assert anchors.evidence["Gate"]["kind"] == "thing", "a kind of its own is none"
    assert notes == ["1 alternatives omitted: they are expressions of the text themselves"]
    assert list(anchors.entries) == ["Sunken Gate", "Gate"], "longer names come first: the first match wins"


@pytest.mark.parametrize(
    "bad",
    [
        {"expressions": [{"expression": "", "alternatives": ["a"]}]},
        {"expressions": [{"expression": "x", "alternatives": []}]},
        {"expressions": [{"expression": "x" * 80, "alternatives": ["a"]}]},
        {"expressions": [{"expression": "x", "alternatives": ["  "]}]},
        {"found": []},
    ],
)
def test_what_is_no_answer(bad):
    with pytest.raises(ValueError, match="validation error"):
        Expressions.model_validate(bad)
