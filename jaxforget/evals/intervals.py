"""How sure a figure is: the bootstrap that every interval in the evidence comes from."""

from collections.abc import Callable, Sequence

import numpy as np


def bootstrap(
    statistic: Callable[..., float], samples: Sequence[np.ndarray], *, draws: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of a figure, its items drawn anew with replacement.

    Args:
      statistic: the figure of as many arrays as there are samples, each of the shape of its sample.
      samples: arrays [items, ...] of any dtype. Each is drawn by itself; what belongs together stands in one row.
      draws: how often all of them are drawn.
      seed: of the drawing; the same one gives the same interval.

    Returns:
      The bounds, low and high: the 2.5th and the 97.5th percentile of the draws' figures, in `statistic`'s unit.
    """
    rng = np.random.default_rng(seed)
    figures = [
        statistic(*(sample[rng.integers(0, len(sample), len(sample))] for sample in samples)) for _ in range(draws)
    ]
    low, high = np.percentile(figures, [2.5, 97.5])
    return float(low), float(high)
