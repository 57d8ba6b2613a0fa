"""Familiarity: probabilities of the answers to probes (WHP, 2310.02238, section 3)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxforget.corpus.prompts import encode_prompt
from jaxforget.errors import UserError
from jaxforget.evals.probes import Probe
from jaxforget.lm.scoring import Scorer
from jaxforget.train.types import Params

ANSWER = "probability of the whole answer"
FIRST_TOKEN = "probability of the answer's first token"
TOKEN_MEAN = "mean probability of the answer's tokens"


@dataclasses.dataclass(frozen=True)
class EncodedProbe:
    """A tokenized probe: ids int [n]; the answer's tokens are those from `start` on."""

    ids: tuple[int, ...]
    start: int


def encode_probe(probe: Probe, tokenizer: Any) -> EncodedProbe:
    """Tokenize prompt and answer as one text.

    The answer begins at the first token that differs from the prompt's own tokens. So a token that joins the prompt's
    end and the answer's beginning counts as the answer's.

    Raises:
      UserError: the answer has no token that another one precedes.
    """
    together = encode_prompt(tokenizer, probe.prompt + probe.answer)
    alone = encode_prompt(tokenizer, probe.prompt)
    start = next((i for i, (a, b) in enumerate(zip(together, alone, strict=False)) if a != b), len(alone))
    if max(start, 1) >= len(together):
        raise UserError(
            f"evals.probes: the answer {probe.answer!r} to {probe.prompt!r} has no token of its own in this tokenizer; "
            "write another, beginning with the space that belongs before it"
        )
    return EncodedProbe(tuple(together), max(start, 1))


@dataclasses.dataclass(frozen=True)
class AnswerScores:
    """Probabilities of answers, teacher-forced; fp64 [probes] each.

    Attributes:
      answer: probability of the whole answer, exp of the sum of its tokens' log-probabilities.
      first_token: probability of its first token.
      token_mean: mean over its tokens. The tail of a name follows from its head, so this is high even where the model
        does not know the name.
    """

    answer: np.ndarray
    first_token: np.ndarray
    token_mean: np.ndarray


def answer_scores(scorer: Scorer, params: Params, probes: Sequence[EncodedProbe]) -> AnswerScores:
    """Score the answers of `probes` under `params`."""
    scores = scorer.log_probabilities(params, [probe.ids for probe in probes])
    answers = [np.float64(row[probe.start - 1 :]) for probe, row in zip(probes, scores, strict=True)]
    return AnswerScores(
        answer=np.array([np.exp(row.sum()) for row in answers]),
        first_token=np.array([np.exp(row[0]) for row in answers]),
        token_mean=np.array([np.exp(row).mean() for row in answers]),
    )


def answer_probabilities(scorer: Scorer, params: Params, probes: Sequence[EncodedProbe]) -> np.ndarray:
    """Return the probability of each probe's whole answer, teacher-forced; fp64 [probes]."""
    return answer_scores(scorer, params, probes).answer
