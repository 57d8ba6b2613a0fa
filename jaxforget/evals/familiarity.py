"""Familiarity by probability, retained knowledge, perplexity and token dynamics (WHP, 2310.02238, section 3)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxforget.errors import UserError
from jaxforget.evals.probes import Probe
from jaxforget.lm.prompts import encode_prompt
from jaxforget.lm.scoring import Scorer
from jaxforget.train.types import Params


@dataclasses.dataclass(frozen=True)
class Answered:
    """A tokenised probe: ids int [n], of which those from `start` on are the answer's."""

    ids: tuple[int, ...]
    start: int


def encode_probe(probe: Probe, tokenizer: Any) -> Answered:
    """Tokenises prompt and answer as one text; the answer begins where its tokens part from the prompt's own.

    A token that joins the prompt's end and the answer's beginning counts as the answer's.

    Raises:
      UserError: no token of the answer is left that others precede.
    """
    together = encode_prompt(tokenizer, probe.prompt + probe.answer)
    alone = encode_prompt(tokenizer, probe.prompt)
    start = next((i for i, (a, b) in enumerate(zip(together, alone, strict=False)) if a != b), len(alone))
    if max(start, 1) >= len(together):
        raise UserError(
            f"evals.probes: the answer {probe.answer!r} to {probe.prompt!r} has no token of its own in this tokenizer; "
            "write another, beginning with the space that belongs before it"
        )
    return Answered(tuple(together), max(start, 1))


def answer_probabilities(scorer: Scorer, params: Params, probes: Sequence[Answered]) -> np.ndarray:
    """Each probe's mean probability of its answer's tokens, teacher-forced; fp64 [probes]."""
    scores = scorer.log_probabilities(params, [probe.ids for probe in probes])
    return np.array(
        [np.exp(np.float64(row[probe.start - 1 :])).mean() for probe, row in zip(probes, scores, strict=True)]
    )


def perplexity(scores: Sequence[np.ndarray]) -> float:
    """exp(mean token negative log-likelihood) over all tokens of all rows.

    `scores` are from `Scorer.log_probabilities`: fp32 [tokens - 1] a row.
    """
    total, count = sum(float(row.sum(dtype=np.float64)) for row in scores), sum(len(row) for row in scores)
    return float(np.exp(-total / count))


def top_tokens(
    scorer: Scorer, params: Params, rows: Sequence[Sequence[int]], count: int
) -> list[list[tuple[int, float]]]:
    """The `count` most probable next tokens of every row (token ids [n]) as (id, probability), best first."""
    return [
        [(int(i), float(row[i])) for i in np.argsort(-row, kind="stable")[:count]]
        for row in scorer.next_token(params, rows)
    ]
