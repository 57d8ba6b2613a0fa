"""Generated text: decoding, and its overlap with a reference (ROUGE-L: Lin, 2004)."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Overlap:
    """The longest common subsequence of words, as a share: of the candidate, of the reference, and their F1."""

    precision: float
    recall: float
    f1: float


def rouge_l(reference: str, candidate: str, *, stem: bool) -> Overlap:
    """Return ROUGE-L of `candidate` against `reference` as the rouge-score package has it, each 0 to 1.

    A text without words scores 0. Words are runs of lower-cased a-z and 0-9: anything else, accented letters too, parts
    them. `stem` cuts words of more than three letters to their Porter stem.
    MUSE leaves it off; open-unlearning and TOFU have it on.
    """
    score = _scorer(stem).score(reference, candidate)["rougeL"]
    return Overlap(float(score.precision), float(score.recall), float(score.fmeasure))


@functools.lru_cache(maxsize=2)
def _scorer(stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # brings nltk: too slow for commands that never score a text

    return RougeScorer(["rougeL"], use_stemmer=stem)


def cut_at(text: str, marks: tuple[str, ...]) -> str:
    """Return the text before the first of any of `marks`."""
    for mark in marks:
        text = text.split(mark, 1)[0]
    return text


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of `ids` without special tokens."""
    return tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
