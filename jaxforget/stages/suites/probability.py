"""The suite that every run has: the user's probes by probability, and perplexity on held-out text."""

from typing import Any

import numpy as np

from jaxforget.config import Config
from jaxforget.evals.evidence import evidence, mean_evidence
from jaxforget.evals.familiarity import answer_probabilities, perplexity
from jaxforget.evals.intervals import bootstrap
from jaxforget.evals.watch import Questions
from jaxforget.lm.forward import make_forward
from jaxforget.lm.model import Model
from jaxforget.lm.scoring import Scorer

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
        totals = np.array([(block.sum(dtype=np.float64), len(block)) for block in scores])  # [blocks, 2]
        interval = bootstrap(lambda drawn: np.exp(-drawn[:, 0].sum() / drawn[:, 1].sum()), [totals])
        rows.append(evidence("perplexity", convention, name, perplexity(scores), len(scores), interval))
    return rows
