"""Extraction strength and exact memorization by hand; passages; verbatim ROUGE."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals import memorization
from jaxforget.evals.memorization import (
    cut_passages,
    extraction_strength,
    open_unlearning_strength,
    verbatim_rouge,
)
from jaxforget.lm.token_statistics import TokenStatistics
from tests.evals.words import BOS, Words


@pytest.mark.parametrize(
    ("hits", "strength", "other"),
    [
        ("1111", 1.0, 1.0),
        ("0111", 0.75, 0.75),
        ("1011", 0.5, 0.5),
        ("0001", 0.25, 0.25),
        ("1110", 0.0, 0.25),  # no suffix: 0, where open-unlearning gives 1/n
        ("0000", 0.0, 0.25),
        ("0", 0.0, 1.0),
    ],
)
def test_extraction_strength_by_hand(hits, strength, other):
    is_argmax = np.array([hit == "1" for hit in hits])
    assert extraction_strength(is_argmax) == pytest.approx(strength)
    assert open_unlearning_strength(is_argmax) == pytest.approx(other)


def test_passages():
    words = Words()
    ids = words("a b c d e f g h i j")["input_ids"][1:]
    cut = cut_passages(["a b c d e f g h i j", "a"], words, length=4)
    assert cut == [[BOS, *ids[:4]], [BOS, *ids[4:8]], [BOS, *ids[8:]]]
    assert len(cut_passages(["a b c d e f g h i"], words, length=4)) == 2  # a last piece under half is left out
    assert cut_passages(["a b"], words, length=100) == [[BOS, *ids[:2]]]  # but not a whole text
    assert cut_passages(["a b c d e f g h i j"], words, length=2, limit=3) == [
        [BOS, *ids[0:2]],
        [BOS, *ids[4:6]],
        [BOS, *ids[8:10]],
    ]
    with pytest.raises(UserError, match="no text has a passage"):
        cut_passages(["a"], words)


def test_verbatim_rouge_by_hand():
    words, seen = Words(), []
    passages = [words("a b c d e")["input_ids"], words("f g h")["input_ids"]]

    def complete(prompts, new_tokens):
        seen.append((prompts, new_tokens))
        return [words("c x e")["input_ids"][1:], words("g x h")["input_ids"][1:]]

    # <s> a b | c d e and <s> f | g h: the second is compared with two new tokens, g x.
    assert verbatim_rouge(passages, complete, words) == pytest.approx([2 / 3, 1 / 2])
    assert seen == [([passages[0][:3], passages[1][:2]], 3)]


class Fixed:
    """Statistics as given, passage by passage."""

    def __init__(self, *given):
        self._given = list(given)

    def statistics(self, params, rows):
        assert len(rows) == 2
        return self._given.pop(0)


def token(logp, hits):
    logp = np.array(logp, np.float32)
    return TokenStatistics(logp, np.array(hits, bool), np.full_like(logp, -2), np.ones_like(logp))


def test_rows_by_hand(monkeypatch, tmp_path):
    words = Words()
    passages = [words("a b")["input_ids"], words("c d")["input_ids"]]
    for name, text in (("a.txt", "a b"), ("b.txt", "c d")):
        (tmp_path / name).write_text(text)
    given = [token([-1, -3], [1, 1]), token([-2, -4], [1, 0])]
    likely = [token([-1, -1], [1, 1]), token([-3, -1], [1, 1])]
    scorer = Fixed(given, likely)
    monkeypatch.setattr(memorization, "scorer_of", lambda model: scorer)
    monkeypatch.setattr(memorization, "completer", lambda model: lambda prompts, new: [ids[1:2] for ids in passages])
    model = SimpleNamespace(tokenizer=words, params=None, folder=Path("m"))
    rows = memorization.measure(model, data=Source(tmp_path), nonmembers=Source(tmp_path))
    value = {row.metric: row.value for row in rows}
    assert value["extraction_strength"] == pytest.approx((1 + 0) / 2)
    assert value["extraction_strength_open_unlearning"] == pytest.approx((1 + 0.5) / 2)
    assert value["exact_memorization"] == pytest.approx((1 + 0.5) / 2)
    assert value["loss"] == pytest.approx((2 + 3) / 2)
    assert value["min_k"] == pytest.approx((3 + 4) / 2)
    assert value["min_k_plus_plus"] == pytest.approx((1 + 2) / 2)
    # Losses 2 and 3 against the nonmembers' 1 and 2: of four pairs one ties and three are lost.
    assert value["auc_loss"] == pytest.approx(0.5 / 4)
    assert {row.n for row in rows} == {2}
    assert len({row.metric for row in rows}) == len(rows) == 12
