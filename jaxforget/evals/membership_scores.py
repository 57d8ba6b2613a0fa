"""Scores of membership inference, which tells a text that was trained on from one that was not.

A higher score always means: looks more like a text of the training set. The attacks: loss (Yeom et al.,
2018), zlib (Carlini et al., 2021), Min-K % (Shi et al., 2310.16789), Min-K %++ (Zhang et al., 2404.02936).
"""

import zlib
from collections.abc import Sequence

import numpy as np

from jaxforget.errors import UserError
from jaxforget.lm.token_statistics import TokenStatistics

ATTACKS = ("loss", "zlib", "min_k", "min_k_plus_plus")
# Below this variance a distribution is almost certain and (log p - mean) / deviation is noise; open-unlearning's bound.
LEAST_VARIANCE = 1e-6


def lowest_mean(values: np.ndarray, share: float, *, at_least_one: bool = False) -> float:
    """Return the mean of the lowest int(share * n) of n values, in fp64; NaN if that is none of them.

    Args:
      values: [n].
      share: of the values, 0 to 1.
      at_least_one: take one value if the share would be none, as open-unlearning does and MUSE does not.
    """
    count = int(len(values) * share)
    if at_least_one:
        count = max(1, count)
    lowest = np.sort(np.asarray(values, np.float64))[:count]
    return float(lowest.mean()) if len(lowest) else float("nan")


def auc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Return P(a > b) + P(a = b) / 2 for a drawn from `higher` and b from `lower`: the area under the ROC curve.

    Both are float [texts]; the numbers of texts may differ.
    """
    return float(shares_below(higher, lower).mean())


def shares_below(higher: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Return the share of `lower` below each of `higher`, fp64 [higher]; equals count half. The mean is `auc`."""
    ordered = np.sort(np.asarray(lower, np.float64))
    below = np.searchsorted(ordered, np.asarray(higher, np.float64), side="left")
    up_to = np.searchsorted(ordered, np.asarray(higher, np.float64), side="right")
    return (below + up_to) / (2 * len(ordered))


def membership_scores(
    statistics: Sequence[TokenStatistics], texts: Sequence[str], *, share: float = 0.4
) -> dict[str, np.ndarray]:
    """Return each attack's score of each text, fp64 [texts]; higher = more like a member.

    loss: mean token log-probability. zlib: that over the compressed length of the text in bytes. min_k: mean of the
    lowest `share` of the token log-probabilities (at least one). min_k_plus_plus: the same of
    (log p - mean) / deviation, mean and deviation taken over the vocabulary.
    `share` is MUSE's 0.4; the Min-K papers' own choice is 0.2.

    Raises:
      UserError: a text without a token that others precede.
    """
    out = {name: np.zeros(len(texts)) for name in ATTACKS}
    for i, (token, text) in enumerate(zip(statistics, texts, strict=True)):
        if not len(token.logp):
            raise UserError(f"text {i} ({text[:40]!r}): too short to score; it needs a token that others precede")
        mean = float(token.logp.mean(dtype=np.float64))
        spread = np.sqrt(np.maximum(np.square(token.deviation, dtype=np.float64), LEAST_VARIANCE))
        out["loss"][i] = mean
        out["zlib"][i] = mean / compressed_length(text)
        out["min_k"][i] = lowest_mean(token.logp, share, at_least_one=True)
        standard = (np.float64(token.logp) - token.mean) / spread
        out["min_k_plus_plus"][i] = lowest_mean(standard, share, at_least_one=True)
    return out


def compressed_length(text: str) -> int:
    """Return the number of bytes of the zlib-compressed UTF-8 text at the default level."""
    return len(zlib.compress(text.encode("utf-8")))
