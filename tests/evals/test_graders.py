"""Grades worked out by hand; what an endpoint is asked and what is believed of its answer."""

import pytest

from jaxforget.evals.completion_prompts import Prompt
from jaxforget.evals.graders import Verdict, common_words, grade_of, grade_offline, grade_question

PROMPT = Prompt("When Zorvath came home, he", ("Quillon", "Zorvath", "the Silver Gate", "dagger"), 7)
ANCHORS = ("Zorvath", "Thornspire", "wand", "vomdind")
COMMON = common_words(["He took the wand and the dagger to a gate. Harry Silver"])


@pytest.mark.parametrize(
    ("completion", "grade", "shown"),
    [
        (" met QUILLON there.", 3, ("Quillon",)),
        (" saw the Silver Gate.", 3, ("the Silver Gate",)),
        (" went on to Thornspire.", 3, ("Thornspire",)),
        (" fed the vomdind", 3, ("vomdind",)),  # small letters, but no word of general text
        (" met Quillonius.", 0, ()),
        (" was still Zorvath.", 0, ()),  # the prompt says so
        (" raised a wand.", 2, ("wand",)),
        (" raised a dagger.", 2, ("dagger",)),  # a reference, yet a common word
        (" bought a ring of silver.", 1, ("Silver",)),  # part of a reference
        (" opened the gate.", 0, ()),  # "the", "gate": common words of it
        ("", 0, ()),
    ],
)
def test_offline_grades(completion, grade, shown):
    found = grade_offline(PROMPT, completion, ANCHORS, COMMON)
    assert (found.grade, found.shown) == (grade, shown)
    assert found.raw


def test_without_general_text_a_word_of_small_letters_is_a_theme():
    assert grade_offline(PROMPT, "fed the vomdind", ANCHORS, set()).grade == 2
    assert grade_offline(PROMPT, "fed the vomdind", ANCHORS, {"cat"}).grade == 3
    phrase = Prompt("x", ("the boy who lived",), 5)
    assert grade_offline(phrase, "he was the boy who lived", (), set()).grade == 3


def test_common_words_are_those_in_small_letters():
    assert common_words(["Harry's Cat sat, 3 cats o'clock"]) == {"sat", "cats", "o'clock"}


def test_the_grader_sees_prompt_references_and_completion():
    system, user = grade_question(PROMPT, " met Quillon.")
    assert system["role"] == "system"
    for part in ("When Zorvath came home, he", "- Quillon", "- the Silver Gate", "met Quillon."):
        assert part in user["content"]
    assert "- Zorvath" not in user["content"]  # it stands in the prompt
    assert "(nothing)" in grade_question(PROMPT, "  ")[1]["content"]


@pytest.mark.parametrize(
    ("shown", "given", "grade"),
    [
        (["Quillon"], 3, 3),
        (["zorvath"], 3, 0),
        (["Zorvath"], 2, 0),
        (["Zorvath", "Quillon"], 3, 3),
        ([], 3, 3),
        ([], 1, 1),
    ],
)
def test_what_the_prompt_already_says_counts_for_nothing(shown, given, grade):
    found = grade_of(Verdict(shown=shown, grade=given, why="so"), "raw words", PROMPT)
    assert found.grade == grade
    assert found.raw == "raw words"
    assert "Zorvath" not in found.shown
