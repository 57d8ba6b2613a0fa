"""Bootstrap intervals."""

from collections.abc import Callable, Sequence

import numpy as np

DRAWS = 1000
PICKED = 1 << 20  # values in memory at a time, unless one draw is larger


def bootstrap(statistic: Callable[..., float], samples: Sequence[np.ndarray], *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval of a figure whose items are drawn with replacement, `DRAWS` times.

    Args:
      statistic: returns the figure of one array for each sample, of the shape of that sample.
      samples: arrays [items, ...] of any dtype, drawn independently; values that belong together share a row.
      seed: of the drawing; the same one gives the same interval.

    Returns:
      The bounds, low and high: the 2.5th and the 97.5th percentile of the draws' figures, in `statistic`'s unit.
    """
    rng = np.random.default_rng(seed)
    figures = [
        statistic(*(sample[rng.integers(0, len(sample), len(sample))] for sample in samples)) for _ in range(DRAWS)
    ]
    return _bounds(figures)


def mean_interval(values: np.ndarray, *, seed: int = 0) -> tuple[float, float]:
    """Return `bootstrap(np.mean, [values])`, whole arrays of draws at a time.

    Args:
      values: [items] of any dtype.
      seed: as of `bootstrap`.
    """
    rng, count = np.random.default_rng(seed), len(values)
    together = max(1, PICKED // max(count, 1))
    parts = [min(together, DRAWS - start) for start in range(0, DRAWS, together)]
    return _bounds(np.concatenate([values[rng.integers(0, count, (part, count))].mean(axis=1) for part in parts]))


def _bounds(figures: Sequence[float] | np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(figures, [2.5, 97.5])
    return float(low), float(high)
