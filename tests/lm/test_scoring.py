"""Scores in batches and buckets, over eight devices, beside whole logits of one row at a time."""

import numpy as np
import pytest

from jaxforget.lm.scoring import perplexity, top_tokens
from tests.evals.asking import placed, scorer, whole_logp
from tests.train.tiny import VOCABULARY, whole_logits


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    """More than two batches of eight, of lengths in two buckets, at and around their edges."""
    rng = np.random.default_rng(0)
    lengths = [40, 2, 31, 32, 33, 1, 17, 64, *rng.integers(2, 60, 11).tolist()]
    return [rng.integers(0, VOCABULARY, length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def one():
    return scorer()


def test_log_probabilities(one, rows):
    found = one.log_probabilities(placed(), rows)
    assert len(found) == len(rows)
    for scores, row in zip(found, rows, strict=True):
        assert scores.dtype == np.float32
        wanted = whole_logp(row)[np.arange(len(row) - 1), row[1:]]
        np.testing.assert_allclose(scores, wanted, atol=1e-5)


def test_next_token(one, rows):
    found = one.next_token(placed(), rows)
    assert found.shape == (len(rows), VOCABULARY)
    np.testing.assert_allclose(found, [np.exp(whole_logp(row)[-1]) for row in rows], atol=1e-6)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


def test_one_compilation_a_bucket(rows):
    fresh = scorer()
    for _ in range(2):
        fresh.log_probabilities(placed(), rows)
        fresh.next_token(placed(), rows)
    assert fresh._log_probabilities._cache_size() == 2
    assert fresh._next_token._cache_size() == 2


def test_nothing_to_score(one):
    assert one.log_probabilities(placed(), []) == []


def test_an_empty_row_has_no_scores(one):
    assert [len(scores) for scores in one.log_probabilities(placed(), [[], [3], [3, 4]])] == [0, 0, 1]


def test_no_whole_logits(one):
    tokens = np.zeros((8, 64), np.int32)
    program = one._log_probabilities.lower(placed(), tokens, tokens).compile().as_text()
    assert not whole_logits(program, 64)


def test_perplexity_counts_tokens_not_rows(one):
    rows = [[0, 3, 5, 7, 9, 11], [0, 4]]
    scores = one.log_probabilities(placed(), rows)
    losses = [-whole_logp(row)[i, row[i + 1]] for row in rows for i in range(len(row) - 1)]
    assert len(losses) == 6
    np.testing.assert_allclose(perplexity(scores), np.exp(np.mean(losses)), rtol=1e-5)


def test_top_tokens(one):
    rows = [[0, 3, 5], [0, 4]]
    for row, found in zip(rows, top_tokens(one, placed(), rows, 5), strict=True):
        logp = whole_logp(row)[-1]
        assert [number for number, _ in found] == np.argsort(-logp)[:5].tolist()
        np.testing.assert_allclose([p for _, p in found], np.exp(np.sort(-logp)[:5] * -1), rtol=1e-5)
