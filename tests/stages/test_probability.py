"""The interval of a perplexity."""

import numpy as np

from jaxforget.evals.familiarity import perplexity
from jaxforget.stages import probability


def test_perplexity_interval_holds_the_perplexity():
    rng = np.random.default_rng(0)
    scores = [-rng.exponential(2.0, rng.integers(5, 50)) for _ in range(40)]
    low, high = probability._interval(scores)
    assert low < perplexity(scores) < high
    assert probability._interval(scores) == (low, high)
