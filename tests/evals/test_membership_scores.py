"""Membership scores and their AUC, by hand."""

import zlib

import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.evals.membership_scores import (
    ATTACKS,
    auc,
    lowest_mean,
    membership_scores,
    shares_below,
)
from jaxforget.lm.token_statistics import TokenStatistics


@pytest.mark.parametrize(
    ("values", "share", "wanted"),
    [
        ([-1, -5, -2, -4, -3], 0.4, -4.5),  # int(0.4 * 5) = 2: -5 and -4
        ([-1, -5, -2, -4], 0.4, -5),  # int(1.6) = 1
        ([-1, -2, -3], 1.0, -2),
    ],
)
def test_lowest_mean_by_hand(values, share, wanted):
    assert lowest_mean(np.array(values), share) == wanted
    assert lowest_mean(np.array(values), share, at_least_one=True) == wanted


def test_a_share_that_is_no_token():
    assert np.isnan(lowest_mean(np.array([-1.0, -3.0]), 0.4))
    assert lowest_mean(np.array([-1.0, -3.0]), 0.4, at_least_one=True) == -3


@pytest.mark.parametrize(
    ("higher", "lower", "wanted"),
    [
        ([3, 4], [1, 2], 1.0),
        ([1, 2], [3, 4], 0.0),
        ([1, 3], [2], 0.5),
        ([1, 2, 2], [2, 0], 4 / 6),  # pairs: 1>0; 2=2, 2>0, twice: 0.5+1, so (1 + 3) / 6
        ([2], [2], 0.5),
    ],
)
def test_auc_by_hand(higher, lower, wanted):
    assert auc(np.array(higher), np.array(lower)) == pytest.approx(wanted)


def statistics(logp, mean, deviation) -> TokenStatistics:
    logp, mean, deviation = (np.array(x, np.float32) for x in (logp, mean, deviation))
    return TokenStatistics(logp, logp == 0, mean, deviation)


def test_scores_by_hand():
    text = "aaaa"
    found = membership_scores(
        [statistics([-1, -4, -2, -3, -5], [-2, -2, -2, -2, -1], [1, 2, 1, 0.5, 0])], [text], share=0.4
    )
    assert set(found) == set(ATTACKS)
    assert found["loss"] == pytest.approx([-3])
    assert found["zlib"] == pytest.approx([-3 / len(zlib.compress(b"aaaa"))])
    assert found["min_k"] == pytest.approx([-4.5])
    # Standardised: 1, -1, 0, -2 and -4 / 0.001 (a deviation of 0 counts as that of the least variance, 1e-6).
    assert found["min_k_plus_plus"] == pytest.approx([(-2 - 4000) / 2])


def test_members_that_are_likelier_give_one():
    texts = ["a", "b"]
    members = membership_scores([statistics([-1.0], [-2], [1]), statistics([-2.0], [-2], [1])], texts)
    others = membership_scores([statistics([-3.0], [-2], [1]), statistics([-4.0], [-2], [1])], texts)
    assert [auc(members[name], others[name]) for name in ATTACKS] == [1.0] * len(ATTACKS)
    assert [auc(others[name], members[name]) for name in ATTACKS] == [0.0] * len(ATTACKS)


def test_a_text_of_one_token():
    with pytest.raises(UserError, match="text 0 .'a'.: too short"):
        membership_scores([statistics([], [], [])], ["a"])


def test_shares_below_by_hand_and_their_mean_is_the_auc():
    shares = shares_below([3.0, 1.0, 0.5], [1.0, 2.0])
    assert shares.tolist() == [1.0, 0.25, 0.0]
    assert auc([3.0, 1.0, 0.5], [1.0, 2.0]) == pytest.approx(np.mean(shares))
