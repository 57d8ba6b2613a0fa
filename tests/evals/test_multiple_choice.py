"""Multiple choice by hand: what is scored, and how the three accuracies part."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.evals import multiple_choice
from jaxforget.evals.multiple_choice import (
    Document,
    choice_likelihoods,
    cut_pair,
    encode_choices,
    load_choices,
    margins,
    right_answers,
)
from jaxforget.evals.rows import above_control
from tests.evals.words import BOS, Table, Words

GIVEN = {"where": -9.0, "is": -9.0, "in": -1.0, "town": -2.0, "a": -0.5, "é": -1.0}


def encoded(context, choice, tokenizer, delimiter=" ", where="document"):
    return encode_choices([Document(context, (choice,), 0, where)], tokenizer, delimiter=delimiter)[0]


class Many:
    """A tokenizer of one text as one of lists, which is how choices are tokenised."""

    def __init__(self, one):
        self._one = one
        self.bos_token_id, self.eos_token_id = one.bos_token_id, one.eos_token_id

    def __call__(self, texts, **how):
        assert isinstance(texts, list)
        return {"input_ids": [self._one(text, **how)["input_ids"] for text in texts]}


def test_encode_choices():
    words = Many(Words("where is town"))
    assert encoded("where is", "town", words) == ([BOS, 2, 3], [4])
    assert encoded("where is ", "town", words, delimiter="") == ([BOS, 2, 3], [4])
    assert encoded("", "town is", words) == ([BOS], [4, 3])
    with pytest.raises(UserError, match=r"a\.jsonl: line 3: the choice ' ' has no token"):
        encoded("where", " ", words, where="a.jsonl: line 3")
    both = [Document("where is", ("town", "is town"), 0), Document("", ("town",), 0), Document("is", ("where",), 0)]
    alone = [pair for d in both for c in d.choices for pair in [encoded(d.context, c, words)]]
    assert encode_choices(both, words) == alone


class Characters:
    bos_token_id, eos_token_id = None, 1

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": list(map(ord, text))}


def test_white_space_at_the_end_of_the_context_belongs_to_the_choice():
    characters = Many(Characters())
    assert encoded("ab ", "c", characters, delimiter="") == ([97, 98], [32, 99])
    assert encoded("ab", "c", characters) == ([97, 98], [32, 99])
    assert encoded("", "c", characters) == ([1], [32, 99])  # no begin token: the end token


def test_an_ending_after_several_contexts():
    document = Document("", ("the cup", "the box"), 1, ending="is big")
    assert document.pairs() == [("the cup", "is big"), ("the box", "is big")]
    words = Many(Words("the cup is big box"))
    assert encode_choices([document], words) == [([BOS, 2, 3], [4, 5]), ([BOS, 2, 6], [4, 5])]


def by_table(words, seen=None):
    """Stands in for a model: the sum of `GIVEN` over the ending's words."""
    table = Table(words, GIVEN)

    def score(pairs):
        if seen is not None:
            seen.extend(pairs)
        rows = table.log_probabilities(None, [[*before, *after] for before, after in pairs])
        return [(float(r[-len(after) :].sum()), False) for r, (_, after) in zip(rows, pairs, strict=True)]

    return score


def test_likelihoods_by_hand():
    documents = [Document("where is", ("in town", "a"), 0), Document("is", ("town", "a in", "é"), 1)]
    words = Words()
    found = choice_likelihoods(documents, by_table(words), Many(words))
    assert [list(row) for row in found] == [[-3, -0.5], [-2, -1.5, -1]]


def test_a_text_beyond_the_positions_loses_its_beginning():
    seen, words = [], Words("where is in town")
    documents = [Document("where is", ("in town",), 0)]
    assert choice_likelihoods(documents, by_table(words, seen), Many(words), max_length=3) == [[-3.0]]
    assert seen == [([2, 3], [4, 5])]  # four tokens, of which three are read
    assert cut_pair([0, 1, 2], [3, 4], 3) == ([1, 2], [3, 4])
    assert cut_pair([0], [1, 2, 3, 4], 2) == ([2], [3, 4])  # what nothing precedes any more is not scored


def test_accuracies_part():
    # Sums -3, -2: the second. By characters -3/6, -2/3: the first. By bytes -3/6, -2/6: the second.
    documents = [Document("x", ("sixsix", "ééé"), 0), Document("x", ("a", "b"), 0)]
    found = right_answers(documents, [np.array([-3.0, -2.0]), np.array([-1.0, -1.0])])
    assert {name: list(value) for name, value in found.items()} == {
        "acc": [False, True],
        "acc_norm": [True, True],
        "acc_bytes": [False, True],
    }


def test_rows(monkeypatch):
    words = Words()
    documents = [Document("where is", ("in town", "a"), 0), Document("is", ("town", "a in", "é"), 2)]
    monkeypatch.setattr(multiple_choice, "continuation_scorer", lambda model: by_table(words))
    config = SimpleNamespace(max_position_embeddings=99)
    model = SimpleNamespace(tokenizer=Many(words), config=config, folder=Path("m"))
    rows = multiple_choice.measure_documents(documents, model)
    # By characters: -3/7, -0.5/1: the first, right. -2/4, -1.5/4, -1/1: the second, wrong.
    # Margins: -3 + 0.5, and -1 + (2 + 1.5) / 2.
    wanted = {"acc": 0.5, "acc_norm": 0.5, "acc_bytes": 0.5, "margin": (-2.5 + 0.75) / 2}
    assert {row.metric: row.value for row in rows} == wanted
    assert {row.n for row in rows} == {2}
    assert [row.metric for row in above_control(rows, rows)] == ["margin_above_control"]
    assert rows[-1].convention == "mean over questions of log p(right) - mean log p(wrong), nats"


def test_a_question_without_a_wrong_choice_has_no_margin():
    documents = [Document("x", ("a",), 0), Document("x", ("a", "b", "c"), 2)]
    assert margins(documents, [np.array([-1.0]), np.array([-1.0, -3.0, -0.5])]) == pytest.approx([1.5])


GOOD = {"context": "", "choices": ["a", "b"], "answer": 1}


def test_load(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(GOOD) + "\n")
    assert load_choices(tmp_path / "a.jsonl") == [Document("", ("a", "b"), 1, f"{tmp_path}/a.jsonl: line 1")]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answer": 2}, "answer is 2, but there are 2 choices, counted from 0"),
        ({"answer": "b"}, "answer is 'b', but must be a whole number"),
        ({"answer": None}, "answer is null, but must be a whole number"),
        ({"choices": []}, "choices is"),
        ({"choices": "ab"}, "choices is 'ab'"),
        ({"context": 3}, "context is 3, but must be a string"),
    ],
)
def test_a_fault_names_the_line(tmp_path, change, told):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(x) for x in (GOOD, GOOD | change)))
    with pytest.raises(UserError, match=f"a.jsonl: line 2: {told}"):
        load_choices(tmp_path / "a.jsonl")
