"""The audit: which words of the target does a model still predict, and which passages show it.

With a control every word is looked at: what the control predicts too, any reader could have guessed; what lies above it
was read. So words turn up that the dictionary never named. Without one, base stands in: of the words that a dictionary
names, at their first place in a passage (a repeated name can be copied), those predicted nearly as well as by base.
"""

import dataclasses
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from jaxforget.evals.evidence import evidence
from jaxforget.evals.intervals import bootstrap
from jaxforget.lm.scoring import Scorer
from jaxforget.train.types import Params

LEAK = 0.1  # probability above the control's from which a word counts as leaked
NEAR = 0.9  # share of base's probability from which a word counts as kept, where there is no control
KNOWN = 0.1  # of base's own probability: below it there is nothing to forget
START = ("Ġ", "▁", "Ċ", " ", "\n")  # marks that tokenizers begin a word with


@dataclasses.dataclass(frozen=True)
class Passage:
    """A passage: ids int [n], and its words as (first token, token after the last), in order, from token 1 on."""

    ids: tuple[int, ...]
    words: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Audited:
    """A passage under two models.

    Attributes:
      passage: what was read.
      model, reference: probability of each word given what precedes it, fp64 [words].
      watched: whether each word is looked at, bool [words].
    """

    passage: Passage
    model: np.ndarray
    reference: np.ndarray
    watched: np.ndarray


def cut_words(ids: Sequence[int], pieces: Sequence[str]) -> Passage:
    """Words of a passage: a token that begins with a blank's mark or a punctuation mark begins one, and so does one
    behind a punctuation mark or a line end.

    The first token has nothing that precedes it: it is no word.
    """

    def begins(i: int) -> bool:
        # ASCII marks only: tokenizers of bytes spell parts of accented letters with odd signs.
        joins = i > 1 and not pieces[i].startswith((*START, *string.punctuation))
        return not (joins and not pieces[i - 1].endswith(("Ċ", "\n", *string.punctuation)))

    starts = [i for i in range(1, len(ids)) if begins(i)]
    return Passage(tuple(int(i) for i in ids), tuple(zip(starts, [*starts[1:], len(ids)], strict=True)))


def word_probabilities(scorer: Scorer, params: Params, passages: Sequence[Passage]) -> list[np.ndarray]:
    """Probability of every word of every passage, fp64 [words]: the product of its tokens', teacher-forced."""
    scores = scorer.log_probabilities(params, [passage.ids for passage in passages])
    return [
        np.exp([row[first - 1 : end - 1].sum(dtype=np.float64) for first, end in passage.words])
        for passage, row in zip(passages, scores, strict=True)
    ]


def first_anchors(passage: Passage, spans: np.ndarray) -> np.ndarray:
    """bool [words]: words in which an anchor's first occurrence in the passage begins.

    `spans` int [a, 3]: first token, length and number of each occurrence's anchor, as `Translation.spans`.
    """
    met: set[int] = set()
    begun = set()
    for start, _, key in spans.tolist():
        if key not in met:
            met.add(key)
            begun.add(start)
    return np.array([any(first <= start < end for start in begun) for first, end in passage.words], bool)


def audit(
    passages: Sequence[Passage],
    model: Sequence[np.ndarray],
    reference: Sequence[np.ndarray],
    watched: Sequence[np.ndarray] | None = None,
) -> list[Audited]:
    """Puts the probabilities of two models side by side.

    Args:
      passages: what both read.
      model: the first one's probability of each word, fp64 [words] a passage.
      reference: the same of the second.
      watched: whether each word is looked at, bool [words] a passage; None: every word is.
    """
    every = [np.ones(len(passage.words), bool) for passage in passages]
    parts = zip(passages, model, reference, every if watched is None else watched, strict=True)
    return [Audited(*part) for part in parts]


def leaks(audited: Audited, *, control: bool) -> np.ndarray:
    """bool [words]: with a control, at least `LEAK` above it; without, at least `NEAR` of base where base knows it."""
    if control:
        return audited.watched & (audited.model - audited.reference >= LEAK)
    return audited.watched & (audited.reference >= KNOWN) & (audited.model >= NEAR * audited.reference)


def excess(audited: Audited, *, control: bool) -> np.ndarray:
    """fp64 [words]: how much a word weighs in the ranking; 0 where it is not looked at.

    With a control, the probability above the control's; without, the model's own, where it is a leak.
    """
    if control:
        return np.where(audited.watched, np.maximum(audited.model - audited.reference, 0), 0)
    return np.where(leaks(audited, control=False), audited.model, 0)


def audit_rows(found: Sequence[Audited], *, control: bool, model: str) -> list[dict[str, Any]]:
    """Rows: the share of words that leak, and their mean excess; 95 % bootstraps over passages."""
    if control:
        said = (
            f"share of words at least {LEAK} more probable than under the control",
            "mean of a word's probability above the control's, 0 where below",
        )
    else:
        known = f"base gives {KNOWN} or more"
        said = (
            f"share of anchors' first places at least {NEAR} as probable as under base, where {known}",
            f"mean probability of anchors' first places at least {NEAR} as probable as under base, others 0",
        )
    counts = np.array([audited.watched.sum() for audited in found])
    if not counts.sum():
        return []
    kinds = [("audit_leaked", leaks, said[0]), ("audit_excess", excess, said[1])]
    if control:
        # Two models that read the same differ too: what lies as far below says how much of the above is chance.
        convention = f"share of words at least {LEAK} less probable than under the control"
        kinds.append(("audit_below", lambda audited, control: leaks(_swapped(audited), control=control), convention))
    rows = []
    for metric, of, convention in kinds:
        sums = np.array([of(audited, control=control).sum(dtype=np.float64) for audited in found])
        interval = bootstrap(_share, [np.stack([sums, counts], axis=1)])
        rows.append(evidence(metric, convention, model, sums.sum() / counts.sum(), counts.sum(), interval))
    return rows


def _share(totals: np.ndarray) -> float:
    """Of a passage's sum and its count of words [passages, 2]; 0 where no word of those drawn is looked at."""
    return totals[:, 0].sum() / max(totals[:, 1].sum(), 1)


def _swapped(audited: Audited) -> Audited:
    return dataclasses.replace(audited, model=audited.reference, reference=audited.model)


def ranked(
    found: Sequence[Audited],
    spell: Callable[[Sequence[int]], str],
    *,
    control: bool,
    passages: int = 20,
    words: int = 50,
) -> dict[str, Any]:
    """What to read, worst first: words by what they add up to, passages by their mean excess.

    A word's places add up with their sign: where a model is as often below the control as above, it knows no more.

    Args:
      spell: token ids -> text, blanks kept.

    Returns:
      {"against": "control" or "base", "words": [{"word", "count", "leaked", "model", "reference"}], "passages":
      [{"number", "excess", "words": [{"text", "model", "reference", "leaked"}]}]}; probabilities are means.
    """
    totals: dict[str, list[tuple[float, bool, float, float]]] = {}
    order = []
    for number, audited in enumerate(found):
        weights, leaked = excess(audited, control=control), leaks(audited, control=control)
        order.append((float(weights.mean()) if len(weights) else 0.0, number))
        for place in np.flatnonzero(audited.watched):
            first, end = audited.passage.words[place]
            word = spell(audited.passage.ids[first:end]).strip(" \n\t.,;:!?\"'“”‘’()")
            weight = audited.model[place] - audited.reference[place] if control else weights[place]
            entry = (float(weight), bool(leaked[place]), audited.model[place], audited.reference[place])
            totals.setdefault(word, []).append(entry)
    worst = sorted(totals, key=lambda word: -sum(entry[0] for entry in totals[word]))
    listed = []
    for word in worst[:words]:
        entries = totals[word]
        if not word or sum(entry[0] for entry in entries) <= 0:
            continue
        listed.append(
            {
                "word": word,
                "count": len(entries),
                "leaked": sum(entry[1] for entry in entries),
                "model": float(np.mean([entry[2] for entry in entries])),
                "reference": float(np.mean([entry[3] for entry in entries])),
            }
        )
    shown = [
        {"number": number, "excess": mean, "words": _spelled(found[number], spell, control)}
        for mean, number in sorted(order, key=lambda item: (-item[0], item[1]))[:passages]
        if mean > 0
    ]
    return {"against": "control" if control else "base", "words": listed, "passages": shown}


def _spelled(audited: Audited, spell: Callable[[Sequence[int]], str], control: bool) -> list[dict[str, Any]]:
    leaked = leaks(audited, control=control)
    return [
        {
            "text": spell(audited.passage.ids[first:end]),
            "model": round(float(audited.model[place]), 4),
            "reference": round(float(audited.reference[place]), 4),
            "leaked": bool(leaked[place]),
        }
        for place, (first, end) in enumerate(audited.passage.words)
    ]
