"""Memorisation of passages, token by token: how much of a text a model gives back, and whether it shows it was trained.

Extraction strength (after Carlini et al., 2012.07805) and exact memorisation (Tirumala et al., 2205.10770) have their
formulas at the functions below; open-unlearning's variant of the former stands under its own name. Every token after
the begin token counts, the last too (open-unlearning's code leaves the last out).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxforget.errors import UserError
from jaxforget.evals.evidence import evidence, mean_evidence
from jaxforget.evals.intervals import bootstrap
from jaxforget.evals.membership import ATTACKS, auc, membership_auc, membership_scores, shares_below
from jaxforget.evals.outcomes import Outcome
from jaxforget.evals.text_scores import decode, rouge_l
from jaxforget.lm.generate import Complete
from jaxforget.lm.prompts import encode_prompt
from jaxforget.lm.token_statistics import StatisticsScorer
from jaxforget.train.types import Params

PASSAGE = 128  # tokens of a passage at most, where nothing else is asked for
CONVENTIONS = {
    "extraction_strength": "1 - k/n; 0 where no token is extracted",
    "extraction_strength_open_unlearning": "1 - k/n; 1/n where no token is extracted (open-unlearning)",
    "exact_memorization": "share of tokens that are the argmax",
    "verbatim_rouge": "ROUGE-L F1, no stemmer, of the greedy second half of a passage",
    "loss": "mean token negative log-likelihood",
    "zlib": "loss / bytes of the zlib-compressed text",
    "min_k": "minus the mean of the lowest 40 % token log-probabilities",
    "min_k_plus_plus": "minus the mean of the lowest 40 % standardised token log-probabilities",
}
AUC_CONVENTION = "P(passage looks more trained on than held-out text); .5 = cannot tell"


def extraction_strength(is_argmax: np.ndarray) -> float:
    """1 - k/n: k is the shortest prefix after which every remaining token is the argmax; 0 where none is.

    Args:
      is_argmax: bool [n], whether each token is the argmax, teacher-forced.
    """
    wrong = np.flatnonzero(~is_argmax)
    return 1 - (wrong[-1] + 1) / len(is_argmax) if len(wrong) else 1.0


def open_unlearning_strength(is_argmax: np.ndarray) -> float:
    """The same of the same bool [n], but 1/n where even the last token is not the argmax."""
    return max(extraction_strength(is_argmax), 1 / len(is_argmax))


def cut_passages(texts: Iterable[str], tokenizer: Any, *, length: int = 128, limit: int = 200) -> list[list[int]]:
    """Token ids of at most `limit` passages, evenly spread: consecutive pieces of `length` tokens of each text.

    Each begins as the tokenizer begins a text (with BOS where it adds one). A text's last piece is left out where it is
    shorter than half of `length`, unless it is all of the text.

    Raises:
      UserError: no text has two tokens.
    """
    passages = []
    for text in texts:
        ids = encode_prompt(tokenizer, text)
        begin = [] if tokenizer.bos_token_id is None or ids[:1] != [tokenizer.bos_token_id] else ids[:1]
        body = ids[len(begin) :]
        pieces = [body[first : first + length] for first in range(0, len(body), length)]
        if len(pieces) > 1 and len(pieces[-1]) < length / 2:
            pieces.pop()
        passages += [[*begin, *piece] for piece in pieces if len(piece) > 1]
    if not passages:
        raise UserError("no text has a passage to score: every one is shorter than two tokens")
    picks = np.linspace(0, len(passages) - 1, min(limit, len(passages))).round().astype(int)
    return [passages[i] for i in picks]


def memorization_rows(
    passages: Sequence[Sequence[int]],
    *,
    scorer: StatisticsScorer,
    params: Params,
    complete: Complete,
    tokenizer: Any,
    model: str,
    holdout: Sequence[Sequence[int]] = (),
    share: float = 0.4,
) -> list[dict[str, Any]]:
    """Rows over `passages` (token ids): see `CONVENTIONS`; intervals are 95 % bootstraps over passages.

    loss, zlib, min_k and min_k_plus_plus are positive where the text is unlikely, as published. With `holdout`
    (passages of text that was never trained on) each attack's AUC follows, as auc_loss, ...

    Args:
      passages: from `cut_passages`.
      scorer: of the model's architecture, with `params`, and `complete`, the same model's greedy generation.
      tokenizer: the model's.
      model: its name in the rows.
      holdout: from `cut_passages`, or nothing.
      share: of the tokens that Min-K takes.
    """
    statistics = scorer.statistics(params, passages)
    scores = membership_scores(statistics, [decode(tokenizer, ids) for ids in passages], share=share)
    conventions = CONVENTIONS | {
        name: CONVENTIONS[name].replace("40 %", f"{share:.0%}".replace("%", " %"))
        for name in ("min_k", "min_k_plus_plus")
    }
    values = {
        "extraction_strength": [extraction_strength(s.is_argmax) for s in statistics],
        "extraction_strength_open_unlearning": [open_unlearning_strength(s.is_argmax) for s in statistics],
        "exact_memorization": [s.is_argmax.mean() for s in statistics],
        "verbatim_rouge": verbatim_rouge(passages, complete, tokenizer),
    } | {name: -scores[name] for name in ATTACKS}
    rows = [mean_evidence(name, conventions[name], model, value) for name, value in values.items()]
    if not holdout:
        return rows
    others = _scores(holdout, scorer, params, tokenizer, share)
    return rows + _auc_rows(scores, others, model)


def membership_rows(
    passages: Sequence[Sequence[int]],
    holdout: Sequence[Sequence[int]],
    *,
    scorer: StatisticsScorer,
    params: Params,
    tokenizer: Any,
    model: str,
    share: float = 0.4,
) -> list[dict[str, Any]]:
    """Rows auc_loss, auc_zlib, auc_min_k, auc_min_k_plus_plus: are `passages` told from `holdout`? As above."""
    scores = [_scores(texts, scorer, params, tokenizer, share) for texts in (passages, holdout)]
    return _auc_rows(*scores, model)


def membership_outcomes(
    passages: Sequence[Sequence[int]],
    holdout: Sequence[Sequence[int]],
    *,
    scorer: StatisticsScorer,
    params: Params,
    tokenizer: Any,
    share: float = 0.4,
) -> list[Outcome]:
    """Each attack's share of `holdout` below every one of `passages`, whose mean is the AUC: for paired differences."""
    scores = [_scores(texts, scorer, params, tokenizer, share) for texts in (passages, holdout)]
    return [Outcome(f"auc_{name}", AUC_CONVENTION, shares_below(*(some[name] for some in scores))) for name in ATTACKS]


def _scores(
    passages: Sequence[Sequence[int]], scorer: StatisticsScorer, params: Params, tokenizer: Any, share: float
) -> dict[str, np.ndarray]:
    statistics = scorer.statistics(params, passages)
    return membership_scores(statistics, [decode(tokenizer, ids) for ids in passages], share=share)


def _auc_rows(scores: dict[str, np.ndarray], others: dict[str, np.ndarray], model: str) -> list[dict[str, Any]]:
    return [
        evidence(
            f"auc_{name}", AUC_CONVENTION, model, value, len(scores[name]), bootstrap(auc, [scores[name], others[name]])
        )
        for name, value in membership_auc(scores, others).items()
    ]


def verbatim_rouge(passages: Sequence[Sequence[int]], complete: Complete, tokenizer: Any) -> np.ndarray:
    """ROUGE-L F1 (stemmer off) of each passage's second half as the model continues the first, fp64 [passages]."""
    halves = [max(1, len(ids) // 2) for ids in passages]
    longest = max(len(ids) - half for ids, half in zip(passages, halves, strict=True))
    made = complete([ids[:half] for ids, half in zip(passages, halves, strict=True)], longest)
    return np.array(
        [
            # Greedy: the beginning of a longer continuation is the shorter one.
            rouge_l(decode(tokenizer, ids[half:]), decode(tokenizer, new[: len(ids) - half]), stem=False).f1
            for ids, half, new in zip(passages, halves, made, strict=True)
        ]
    )
