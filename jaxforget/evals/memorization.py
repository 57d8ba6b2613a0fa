"""Suite `memorization`: the share of the target's passages that a model reproduces, and their likelihood.

The formulas of extraction strength (after Carlini et al., 2012.07805) and exact memorization (Tirumala et al.,
2205.10770) stand at the functions below; open-unlearning's variant of the former has its own name. Every token after
the begin token counts, the last one too (open-unlearning's code omits it).
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxforget.corpus.prompts import encode_prompt
from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals.intervals import bootstrap
from jaxforget.evals.membership_scores import ATTACKS, auc, membership_scores, shares_below
from jaxforget.evals.rows import Row, make_row, mean_row
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.suite import RunInputs, Suite
from jaxforget.evals.text_scores import decode, rouge_l
from jaxforget.lm.completion import completer
from jaxforget.lm.generate import Complete
from jaxforget.lm.model import Model

PASSAGE = 128  # default length of a passage, in tokens
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
    """Return 1 - k/n, with k the shortest prefix after which every remaining token is the argmax; 0 if none is.

    Args:
      is_argmax: bool [n], True where the token is the argmax, teacher-forced.
    """
    wrong = np.flatnonzero(~is_argmax)
    return 1 - (wrong[-1] + 1) / len(is_argmax) if len(wrong) else 1.0


def open_unlearning_strength(is_argmax: np.ndarray) -> float:
    """Return `extraction_strength` of bool [n], but 1/n if even the last token is not the argmax."""
    return max(extraction_strength(is_argmax), 1 / len(is_argmax))


def cut_passages(texts: Iterable[str], tokenizer: Any, *, length: int = 128, limit: int = 200) -> list[list[int]]:
    """Return the token ids of at most `limit` passages.

    Every text is cut into consecutive pieces of `length` tokens. Of all pieces, `limit` at even distances are returned,
    or all if they are fewer. A text's last piece is omitted if it is shorter than half of `length`, unless it is the
    whole text, and so is a piece of one token. Where the tokenizer begins a text with BOS, each passage begins with it,
    beyond its `length` tokens.

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


def passages_of(source: Source, model: Model, *, length: int, limit: int) -> list[list[int]]:
    """Return passages of a source of text in the model's tokens; see `cut_passages`."""
    for name, value in (("length", length), ("limit", limit)):
        if value < 2:
            raise UserError(f"{name}={value}: must be at least 2")
    texts = (document.text for document in source.documents())
    return cut_passages(texts, model.tokenizer, length=length, limit=limit)


def attack_scores(model: Model, passages: Sequence[Sequence[int]], share: float = 0.4) -> dict[str, np.ndarray]:
    """Return each membership attack's score of every passage, fp64 [passages]."""
    statistics = scorer_of(model).statistics(model.params, passages)
    return membership_scores(statistics, [decode(model.tokenizer, ids) for ids in passages], share=share)


def auc_rows(scores: dict[str, np.ndarray], others: dict[str, np.ndarray], model: str) -> list[Row]:
    """Return the AUC of each attack, as auc_loss and so on, with an interval over both sets of texts.

    The items of a row are the shares of the other texts below each passage, whose mean is the AUC.
    """
    return [
        make_row(
            f"auc_{name}",
            AUC_CONVENTION,
            model,
            auc(scores[name], others[name]),
            len(scores[name]),
            bootstrap(auc, [scores[name], others[name]]),
            shares_below(scores[name], others[name]),
        )
        for name in scores
    ]


def verbatim_rouge(passages: Sequence[Sequence[int]], complete: Complete, tokenizer: Any) -> np.ndarray:
    """Return ROUGE-L F1 (stemmer off) of each passage's second half, continued from its first; fp64 [passages]."""
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


def measure(
    model: Model,
    *,
    data: Source,
    nonmembers: Source | None = None,
    length: int = PASSAGE,
    limit: int = 200,
    share: float = 0.4,
) -> list[Row]:
    """Measure the memorization of a text: see `CONVENTIONS`; intervals are 95 % bootstraps over passages.

    loss, zlib, min_k and min_k_plus_plus are positive where the text is unlikely, as published.

    Args:
      model: the model.
      data: the text.
      nonmembers: text of the same kind that no model was trained on; with it each attack's AUC follows, as auc_loss and
        so on.
      length: tokens of a passage.
      limit: passages of each text, at most.
      share: the share of the tokens that Min-K takes.
    """
    passages, name = passages_of(data, model, length=length, limit=limit), model.folder.name
    statistics = scorer_of(model).statistics(model.params, passages)
    texts = [decode(model.tokenizer, ids) for ids in passages]
    scores = membership_scores(statistics, texts, share=share)
    percent = f"{share:.0%}".replace("%", " %")
    conventions = {key: convention.replace("40 %", percent) for key, convention in CONVENTIONS.items()}
    values = {
        "extraction_strength": [extraction_strength(s.is_argmax) for s in statistics],
        "extraction_strength_open_unlearning": [open_unlearning_strength(s.is_argmax) for s in statistics],
        "exact_memorization": [s.is_argmax.mean() for s in statistics],
        "verbatim_rouge": verbatim_rouge(passages, completer(model), model.tokenizer),
    } | {attack: -scores[attack] for attack in ATTACKS}
    rows = [mean_row(metric, conventions[metric], name, value) for metric, value in values.items()]
    if nonmembers is None:
        return rows
    others = attack_scores(model, passages_of(nonmembers, model, length=length, limit=limit), share)
    return rows + auc_rows(scores, others, name)


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    return run.passages(PASSAGE)


SUITE = Suite("the share of the target's passages that is reproduced, and their likelihood", measure, options)
