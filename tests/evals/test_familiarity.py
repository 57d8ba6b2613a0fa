"""Probes tokenised where tokens join, and the probabilities of answers beside their definition on whole logits."""

import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.evals.familiarity import answer_probabilities, answer_scores, encode_probe
from jaxforget.evals.probes import Probe
from tests.evals.asking import PIECES, Pieces, placed, scorer, whole_logp


@pytest.fixture(scope="module")
def one():
    return scorer(fsdp=1)


@pytest.mark.parametrize(
    ("prompt", "answer", "pieces", "start"),
    [
        ("a", " b", ["<s>", "a", " b"], 2),
        ("a", " cdd", ["<s>", "a", " cd", "d"], 2),
        ("a", "b", ["<s>", "ab"], 1),  # one token joins prompt and answer: it is the answer's
        ("da", "bcd", ["<s>", "d", "abc", "d"], 2),
        ("d ", "b", ["<s>", "d", " b"], 2),  # the prompt's own space goes to the answer
        ("aba", "ba", ["<s>", "ab", "ab", "a"], 2),
    ],
)
def test_where_the_answer_begins(prompt, answer, pieces, start):
    found = encode_probe(Probe(prompt, answer), Pieces())
    assert [PIECES[i] for i in found.ids] == pieces
    assert found.start == start


def test_without_a_first_token_the_first_cannot_be_scored():
    found = encode_probe(Probe("a", "bd"), Pieces(bos=False))
    assert ([PIECES[i] for i in found.ids], found.start) == (["ab", "d"], 1)


@pytest.mark.parametrize(("prompt", "answer", "bos"), [("a", "b", False), ("a", "", True)])
def test_an_answer_without_a_token_of_its_own(prompt, answer, bos):
    with pytest.raises(UserError, match=f"evals.probes: the answer '{answer}' to 'a' has no token of its own") as error:
        encode_probe(Probe(prompt, answer), Pieces(bos))
    assert "\n" not in str(error.value)


def test_answer_probabilities(one):
    probes = [encode_probe(Probe("a", answer), Pieces()) for answer in (" b", " cdd", "b")]
    logps = [whole_logp(probe.ids) for probe in probes]
    each = [
        np.array([logp[i - 1, probe.ids[i]] for i in range(probe.start, len(probe.ids))])
        for probe, logp in zip(probes, logps, strict=True)
    ]
    assert [len(row) for row in each] == [1, 2, 1]
    scores = answer_scores(one, placed(1), probes)
    np.testing.assert_allclose(scores.answer, [np.exp(row.sum()) for row in each], rtol=1e-5)
    np.testing.assert_allclose(scores.first_token, [np.exp(row[0]) for row in each], rtol=1e-5)
    np.testing.assert_allclose(scores.token_mean, [np.exp(row).mean() for row in each], rtol=1e-5)
    # An answer of one token has one probability; of several, the whole is below the mean over tokens.
    assert scores.answer[0] == scores.first_token[0] == scores.token_mean[0]
    assert scores.answer[1] < scores.token_mean[1]
    assert answer_probabilities(one, placed(1), probes).tolist() == scores.answer.tolist()
