"""Completions cut at words with the target's terms marked; passages with labels and with probabilities."""

import pytest

from jaxforget.report.artefacts import Completion, Passage, PassageToken, Question
from jaxforget.report.texts import completions, cut_at_word, heat, marked, questions, term_pattern


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (' a little house.\nThe work began. "What does', 'a little house.\nThe work began. "What …'),
        ("It was done.", "It was done."),
        ("one\ntw", "one …"),
        ("Nosdi", "Nosdi"),
        ("", ""),
        ('he said "no"  ', 'he said "no"'),
    ],
)
def test_completions_end_at_words(text, shown):
    assert cut_at_word(text) == shown


def test_terms_are_whole_words_and_the_longest_counts():
    pattern = term_pattern(["Maren", "Maren Vale", "a.b", " "])
    assert marked("Maren Vale met Marens and Maren, a.b axb", pattern) == [
        ("Maren Vale", True), (" met Marens and ", False), ("Maren", True), (", ", False), ("a.b", True),
        (" axb", False),
    ]  # fmt: skip
    assert term_pattern([]) is None
    assert marked("as it is", None) == [("as it is", False)]


def test_base_and_the_unlearned_models_are_opposed_and_others_follow():
    item = Completion("p", {"control": "c.", "unlearned": "u.", "paper": "q.", "base": "Maren."})
    (found,) = completions([item], ["Maren"])
    assert found["main"] == [("base", [("Maren", True), (".", False)]), ("unlearned", [("u.", False)])]
    assert [model for model, _ in found["others"]] == ["paper", "control"]
    (found,) = completions([Completion("p", {"one": "1.", "two": "2.", "three": "3."})], [])
    assert [model for model, _ in found["main"]] == ["one", "two"]
    assert completions(None, []) is None


def test_the_heat_map_shades_every_token_by_its_probability():
    tokens = (
        PassageToken("▁Maren", None, True),
        PassageToken("▁sang", None, False, {"base": 0.96, "unlearned": 0.04}),
        PassageToken("<0x0A>", None, False, {"base": 0.5, "unlearned": 0.5}),
    )
    found = heat(Passage("d", tokens))
    assert [model for model, _ in found["maps"]] == ["base", "unlearned"]
    base, unlearned = (words for _, words in found["maps"])
    assert [(w["text"], w["shade"], w["p"]) for w in base] == [
        ("Maren", 0, ""),
        ("sang", 10, "0.960"),
        ("⏎", 5, "0.500"),
    ]
    assert [w["shade"] for w in unlearned] == [0, 0, 5]
    assert heat(Passage("d", tokens[:1])) is None
    assert heat(None) is None


def test_questions_stand_with_every_models_probability():
    found = questions(
        [Question("familiarity", "p", " a", {"unlearned": 0.1, "base": 0.9}), Question("retained", "q", " b", {})]
    )
    assert found["models"] == ["base", "unlearned"]
    assert found["rows"][0]["cells"] == [(0.9, "0.900"), (0.1, "0.100")]
    assert found["rows"][1]["cells"] == [(None, ""), (None, "")]
    assert questions(None) is None
