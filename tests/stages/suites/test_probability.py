"""The interval of a perplexity."""

from types import SimpleNamespace

import numpy as np

from jaxforget.config import Config
from jaxforget.evals.familiarity import perplexity
from jaxforget.evals.watch import Questions
from jaxforget.stages.suites import probability

QUESTIONS = Questions(familiarity=(), retained=(), heldout=((1, 2),), dynamics=(), dynamics_ids=())


def test_perplexity_interval_holds_the_perplexity(monkeypatch):
    """Blocks drawn anew: the interval is that of the same draws, counted all at once."""
    rng = np.random.default_rng(0)
    scores = [-rng.exponential(2.0, rng.integers(5, 50)) for _ in range(40)]
    scorer = SimpleNamespace(log_probabilities=lambda params, rows: scores)
    monkeypatch.setattr(probability, "Scorer", lambda *arguments, **options: scorer)
    monkeypatch.setattr(probability, "make_forward", lambda module: None)
    model = SimpleNamespace(module=None, mesh=None, params=None)
    (row,) = probability.summary_rows("m", model, QUESTIONS, Config(), 8)
    assert (row["value"], row["n"]) == (perplexity(scores), 40)
    assert row["low"] < row["value"] < row["high"]
    sums, counts = np.array([s.sum() for s in scores]), np.array([len(s) for s in scores])
    picks = np.random.default_rng(0).integers(0, 40, (1000, 40))
    drawn = np.exp(-sums[picks].sum(axis=1) / counts[picks].sum(axis=1))
    assert (row["low"], row["high"]) == tuple(np.percentile(drawn, [2.5, 97.5]))
