"""Prompts that hint at the target, and the rows of graded completions, worked out by hand."""

import json

import pydantic
import pytest

from jaxforget.errors import UserError
from jaxforget.evals.completion import completion_rows
from jaxforget.evals.completion_prompts import (
    MadePrompts,
    Prompt,
    as_records,
    load_completion_prompts,
    maker_questions,
    prompts_made,
    prompts_offline,
)
from jaxforget.evals.prompting import holds

CUES = ["Zorvath", "Quillon", "Thornspire", "Brindle Mox", "dagger"]
TEXT = (
    "It was late. Zorvath walked home with Quillon, who sang. They came to Thornspire at night, and Zorvath slept.\n"
    "Nobody saw the tall man called Brindle Mox near the gate of Thornspire that day. He hid a dagger."
)


def test_prompts_from_passages_name_one_cue_and_end_before_another():
    found = prompts_offline([TEXT], CUES, count=100)
    assert len({prompt.prompt for prompt in found}) == len(found) > 3
    for prompt in found:
        place = TEXT.index(prompt.prompt)
        behind = TEXT[place + len(prompt.prompt) :]
        named = [cue for cue in CUES if holds(prompt.prompt, cue)]
        assert named, "no hint of the target"
        assert prompt.references
        assert not any(holds(prompt.prompt, reference) for reference in prompt.references)
        # What comes next is what is asked for.
        assert behind.strip().startswith(prompt.references[0])
        assert all(holds(behind, reference) for reference in prompt.references)
        assert prompt.subtlety == max(1, 10 - 2 * len(named))
        # It begins where a sentence does.
        assert place == 0 or TEXT[place - 1] in " \n"
        assert TEXT[:place].rstrip()[-1:] in ("", ".")
    by_hand = next(p for p in found if p.prompt.endswith("home with"))
    assert by_hand == Prompt("It was late. Zorvath walked home with", ("Quillon", "Thornspire", "Brindle Mox"), 8)


def test_the_count_is_kept_and_the_draw_is_the_seeds():
    texts = [TEXT, TEXT.replace("late", "early")]
    two = prompts_offline(texts, CUES, count=2, seed=1)
    assert len(two) == 2
    assert two == prompts_offline(texts, CUES, count=2, seed=1)
    assert {p.prompt for p in two} != {p.prompt for p in prompts_offline(texts, CUES, count=2, seed=4)}


def test_a_text_that_gives_no_prompt():
    with pytest.raises(UserError, match="names two different anchors; set evals.completion_prompts"):
        prompts_offline(["Zorvath slept. Zorvath woke."], CUES, count=3)
    with pytest.raises(UserError, match="need anchors"):
        prompts_offline([TEXT], [], count=3)


def test_prompts_survive_their_file(tmp_path):
    prompts = [Prompt("Ada met", ("Bo", "Cy"), 3)]
    (tmp_path / "p.json").write_text(json.dumps(as_records(prompts)))
    assert load_completion_prompts(tmp_path / "p.json") == prompts


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subtlety": 11}, "subtlety is 11, but must be less than or equal to 10"),
        ({"subtlety": True}, "subtlety is True, but must be a whole number"),
        ({"references": []}, "references"),
        ({"references": ["ada"]}, "line 1: the prompt holds every reference"),
        ({"prompt": " "}, "prompt"),
    ],
)
def test_records_that_are_none(change, says, tmp_path):
    record = {"prompt": "Ada met", "references": ["Bo"], "subtlety": 3} | change
    (tmp_path / "p.jsonl").write_text(json.dumps(record))
    with pytest.raises(UserError, match=says):
        load_completion_prompts(tmp_path / "p.jsonl")


def test_a_language_model_is_shown_passages_and_its_prompts_are_sieved():
    texts = [f"Sentence {number} about Zorvath is here. " * 100 for number in range(4)]
    questions = maker_questions(texts, count=12, seed=0)
    assert len(questions) == 3  # five prompts a call
    said = [question[0]["content"] for question in questions]
    assert len(set(said)) == 3
    assert all("Zorvath" in text and "5 beginnings" in text and len(text) < 3000 for text in said)
    answer = {
        "prompts": [
            {"prompt": "Ada met ", "references": ["Ada", "Bo"], "subtlety": 2},
            {"prompt": "Bo met", "references": ["Bo"], "subtlety": 2},
            {"prompt": "Cy met", "references": ["Dee"], "subtlety": 9},
        ]
    }
    made = [MadePrompts.model_validate(answer), None]
    assert prompts_made(made, count=9) == [Prompt("Ada met", ("Bo",), 2), Prompt("Cy met", ("Dee",), 9)]
    assert len(prompts_made(made, count=1)) == 1
    with pytest.raises(UserError, match="no usable prompt"):
        prompts_made([None], count=1)
    with pytest.raises(pydantic.ValidationError):
        MadePrompts.model_validate({"prompts": [{"prompt": "a", "references": ["b"], "subtlety": 0}]})


def test_rows_by_hand():
    """Ten completions: 3 unique, 2 themes, 1 guess, 4 none: 5 * 3 + 2 = 17."""
    rows = completion_rows([3, 3, 3, 2, 2, 1, 0, 0, 0, 0], "graded by hand", "unlearned")
    found = [(row.metric, row.value) for row in rows]
    assert found == [
        ("completion_n3", 3), ("completion_n2", 2), ("completion_n1", 1), ("completion_n0", 4),
        ("familiarity_completion", pytest.approx(1.7)), ("familiarity_completion", pytest.approx(0.34)),
    ]  # fmt: skip
    assert [row.convention for row in rows[4:]] == [
        "(5 n3 + n2) / N; graded by hand",
        "(5 n3 + n2) / (5 N); graded by hand",
    ]
    assert {row.n for row in rows} == {10}
    assert rows[5].low < 0.34 < rows[5].high <= 1
