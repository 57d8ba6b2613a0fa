"""Token statistics over eight devices, beside whole logits."""

import numpy as np
import pytest

from jaxforget.lm.token_statistics import StatisticsScorer
from tests.evals.asking import placed, whole_logp
from tests.train.tiny import VOCABULARY, mesh_of, toy_forward, whole_logits

BATCH = 16


def scorer(tile: int) -> StatisticsScorer:
    return StatisticsScorer(toy_forward(), mesh_of(fsdp=8), batch=BATCH, tile=tile)


@pytest.fixture(scope="module")
def rows() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCABULARY, n).tolist() for n in [40, 2, 32, 33, 1, *rng.integers(2, 60, 14)]]


@pytest.mark.parametrize("tile", [1, 20, 4096])
def test_beside_whole_logits(rows, tile):
    found = scorer(tile).statistics(placed(), rows)
    for token, row in zip(found, rows, strict=True):
        logp = whole_logp(row)[:-1]
        label = np.array(row[1:], int)
        p = np.exp(logp)
        mean = (p * logp).sum(axis=1)
        np.testing.assert_allclose(token.logp, logp[np.arange(len(label)), label], atol=2e-5)
        np.testing.assert_array_equal(token.is_argmax, logp.argmax(axis=1) == label)
        np.testing.assert_allclose(token.mean, mean, atol=2e-5)
        np.testing.assert_allclose(token.deviation, np.sqrt((p * logp**2).sum(axis=1) - mean**2), atol=2e-5)
    assert sum(token.is_argmax.sum() for token in found) > 0


def test_it_scores_as_a_scorer_does(rows):
    one = scorer(64)
    for plain, token in zip(one.log_probabilities(placed(), rows), one.statistics(placed(), rows), strict=True):
        np.testing.assert_allclose(plain, token.logp, atol=1e-5)


def test_no_whole_logits_and_one_compilation_a_bucket(rows):
    one = scorer(8)
    for _ in range(2):
        one.statistics(placed(), [[1, 2]] * BATCH + rows[:1])
    assert one._statistics._cache_size() == 2
    tokens = np.zeros((BATCH, 64), np.int32)
    program = one._statistics.lower(placed(), tokens, tokens).compile().as_text()
    assert not whole_logits(program, BATCH * 64 // 8)  # of one device
