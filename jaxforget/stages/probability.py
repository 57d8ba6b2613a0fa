"""The suite that every run has: the user's probes by probability, and perplexity on held-out text."""

from typing import Any

import numpy as np

from jaxforget.config import Config
from jaxforget.evals.familiarity import answer_probabilities, perplexity
from jaxforget.evals.rows import evidence, mean_evidence
from jaxforget.evals.scoring import Scorer
from jaxforget.evals.watch import Questions
from jaxforget.model import Model, make_forward

CONVENTIONS = {
    "familiarity": "mean probability of the answer's tokens",
    "retained": "mean probability of the answer's tokens",
    "perplexity": "exp of the mean token loss on held-out text in blocks of {length} tokens",
}


def summary_rows(name: str, model: Model, questions: Questions, config: Config, length: int) -> list[dict[str, Any]]:
    """Rows of evidence about one model; intervals are 95 % bootstraps over probes or held-out blocks.

    `length` is that of the held-out blocks, tokens: a token late in a long block is easier to predict.
    """
    scorer = Scorer(make_forward(model.module), model.mesh, batch=config.evals.batch, tile=config.targets.tile)
    rows = []
    for metric in ("familiarity", "retained"):
        if probes := getattr(questions, metric):
            values = answer_probabilities(scorer, model.params, probes)
            rows.append(mean_evidence(metric, CONVENTIONS[metric], name, values))
    if questions.heldout:
        scores = scorer.log_probabilities(model.params, questions.heldout)
        convention = CONVENTIONS["perplexity"].format(length=length)
        rows.append(evidence("perplexity", convention, name, perplexity(scores), len(scores), _interval(scores)))
    return rows


def _interval(scores: list[np.ndarray], draws: int = 1000) -> tuple[float, float]:
    """Of the perplexity, 95 %: blocks drawn anew."""
    sums, counts = np.array([s.sum(dtype=np.float64) for s in scores]), np.array([len(s) for s in scores])
    picks = np.random.default_rng(0).integers(0, len(scores), (draws, len(scores)))
    low, high = np.percentile(np.exp(-sums[picks].sum(axis=1) / counts[picks].sum(axis=1)), [2.5, 97.5])
    return float(low), float(high)
