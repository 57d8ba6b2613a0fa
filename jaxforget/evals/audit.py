"""Suite `audit`: the words of the target that a model still predicts, and the passages that show them.

With a control every word counts. Any reader could have guessed the words that the control predicts too; a probability
above the control's shows that the word was read. So the audit finds words that the dictionary does not hold. Without a
control, base replaces it: the audit finds the anchors that are predicted nearly as well as by base, at their first
occurrence in a passage only, because a repeated name can be copied.
"""

import dataclasses
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Source
from jaxforget.corpus.translate import Translator, block_rng
from jaxforget.evals.intervals import bootstrap
from jaxforget.evals.memorization import PASSAGE, passages_of
from jaxforget.evals.rows import Row, make_row
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.suite import MissingInput, RunInputs, Suite, Workspace
from jaxforget.lm.model import Model
from jaxforget.lm.scoring import Scorer
from jaxforget.train.types import Params

LEAK = 0.1  # probability above the control's from which a word counts as leaked
NEAR = 0.9  # share of base's probability from which a word counts as known, without a control
KNOWN = 0.1  # base's own probability below which there is nothing to forget
START = ("Ġ", "▁", "Ċ", " ", "\n")  # marks with which tokenizers begin a word
BLANKS = ("Ġ", "▁")


@dataclasses.dataclass(frozen=True)
class Passage:
    """A passage: ids int [n], and its words as (first token, token after the last) in order, from token 1 on."""

    ids: tuple[int, ...]
    words: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True)
class Audited:
    """A passage under two models.

    Attributes:
      passage: the passage.
      model: the model's probability of each word given the text before it, fp64 [words].
      reference: the same under the control or base.
      watched: True for the words that count, bool [words].
    """

    passage: Passage
    model: np.ndarray
    reference: np.ndarray
    watched: np.ndarray


def cut_words(ids: Sequence[int], pieces: Sequence[str]) -> Passage:
    """Cut a passage into words.

    A token that begins with a blank's mark or a punctuation mark begins a word, and so does one after a punctuation
    mark or a line end. The first token belongs to no word, because nothing precedes it.
    """

    def begins(i: int) -> bool:
        # ASCII marks only, because tokenizers of bytes spell parts of accented letters with other signs.
        joins = i > 1 and not pieces[i].startswith((*START, *string.punctuation))
        return not (joins and not pieces[i - 1].endswith(("Ċ", "\n", *string.punctuation)))

    starts = [i for i in range(1, len(ids)) if begins(i)]
    return Passage(tuple(int(i) for i in ids), tuple(zip(starts, [*starts[1:], len(ids)], strict=True)))


def word_probabilities(scorer: Scorer, params: Params, passages: Sequence[Passage]) -> list[np.ndarray]:
    """Return the probability of every word of every passage, fp64 [words]; teacher-forced, all its tokens."""
    scores = scorer.log_probabilities(params, [passage.ids for passage in passages])
    return [
        np.exp([row[first - 1 : end - 1].sum(dtype=np.float64) for first, end in passage.words])
        for passage, row in zip(passages, scores, strict=True)
    ]


def first_anchors(passage: Passage, spans: np.ndarray) -> np.ndarray:
    """Return bool [words]: True for words in which an anchor's first occurrence in the passage begins.

    Args:
      passage: the passage.
      spans: first token, length and anchor's number of each occurrence, int [a, 3], as `Translation.spans`.
    """
    met: set[int] = set()
    begun = set()
    for start, _, key in spans.tolist():
        if key not in met:
            met.add(key)
            begun.add(start)
    return np.array([any(first <= start < end for start in begun) for first, end in passage.words], bool)


def leaks(audited: Audited, *, control: bool) -> np.ndarray:
    """Return the leaked words, bool [words].

    With a control: at least `LEAK` above it. Without: at least `NEAR` of base's probability, where base knows the word.
    """
    if control:
        return audited.watched & (audited.model - audited.reference >= LEAK)
    return audited.watched & (audited.reference >= KNOWN) & (audited.model >= NEAR * audited.reference)


def excess(audited: Audited, *, control: bool) -> np.ndarray:
    """Return the weight of each word in the ranking, fp64 [words]; 0 for a word that does not count.

    With a control: the probability above the control's. Without: the model's own probability of a leaked word.
    """
    if control:
        return np.where(audited.watched, np.maximum(audited.model - audited.reference, 0), 0)
    return np.where(leaks(audited, control=False), audited.model, 0)


def audit_rows(found: Sequence[Audited], *, control: bool, model: str) -> list[Row]:
    """Return the share of words that leak and their mean excess; intervals are 95 % bootstraps over passages."""
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
        # Two models of equal knowledge differ by chance in both directions, so this row shows the chance level.
        convention = f"share of words at least {LEAK} less probable than under the control"
        kinds.append(("audit_below", lambda audited, control: leaks(_swapped(audited), control=control), convention))
    rows = []
    for metric, of, convention in kinds:
        sums = np.array([of(audited, control=control).sum(dtype=np.float64) for audited in found])
        interval = bootstrap(_share, [np.stack([sums, counts], axis=1)])
        rows.append(make_row(metric, convention, model, sums.sum() / counts.sum(), counts.sum(), interval))
    return rows


def _share(totals: np.ndarray) -> float:
    """Return the share from sums and counts of words, [passages, 2]; 0 if no word of the drawn passages counts."""
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
    """Return the words and passages to read, worst first: words by their sum, passages by their mean excess.

    The occurrences of a word are summed with their sign: a model that is as often below the control as above knows no
    more than it.

    Args:
      found: audited passages.
      spell: function token ids -> text that keeps blanks.
      control: True if the reference is a control, False if it is base.
      passages: number of passages at most.
      words: number of words at most.

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


def audit(
    model: Model, reference: Model, ids: Sequence[Sequence[int]], translator: Translator | None = None
) -> list[Audited]:
    """Audit passages under a model and its reference.

    Args:
      model: the model.
      reference: the control; or base, if `translator` is given.
      ids: token ids of each passage.
      translator: finds the anchors, whose first occurrences are the words that count; None: every word counts.

    Raises:
      MissingInput: the two models have different tokens.
    """
    if reference.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise MissingInput(f"{model.folder}: its tokens differ from those of {reference.folder}; no word is comparable")
    passages = [cut_words(passage, model.tokenizer.convert_ids_to_tokens(list(passage))) for passage in ids]
    own = word_probabilities(scorer_of(model), model.params, passages)
    other = word_probabilities(scorer_of(reference), reference.params, passages)
    watched = [np.ones(len(passage.words), bool) for passage in passages]
    if translator is not None:
        spans = [translator.translate(np.array(passage.ids), block_rng(0, 0)).spans for passage in passages]
        watched = [first_anchors(passage, found) for passage, found in zip(passages, spans, strict=True)]
    return [Audited(*parts) for parts in zip(passages, own, other, watched, strict=True)]


def measure(
    model: Model,
    *,
    data: Source,
    control: Model | None = None,
    base: Model | None = None,
    anchors: Path | None = None,
    keep_all_anchors: bool = False,
    match: str = "first",
    length: int = PASSAGE,
    limit: int = 200,
    workspace: Workspace | None = None,
) -> list[Row]:
    """Audit a text against `control`; without one, against `base` at the occurrences of `anchors`.

    Args:
      model: the model.
      data: the text to forget.
      control: a model that never read it.
      base: the model before unlearning.
      anchors: the dictionary.
      keep_all_anchors: use the entries that the dictionary's filter removes too.
      match: the option anchors.match.
      length: tokens of a passage.
      limit: number of passages at most.
      workspace: where the words and passages to read are written, as MODEL.json.
    """
    if control is None and (base is None or anchors is None):
        raise MissingInput("suite='audit' needs control=, a model that never read the text; or base= and anchors=")
    reference = base if control is None else control
    if reference.folder == model.folder:
        return []
    ids = passages_of(data, model, length=length, limit=limit)
    translator = None
    if control is None:
        translator = Translator(Anchors.load(anchors, keep_all=keep_all_anchors), model.tokenizer, match=match)
    found = audit(model, reference, ids, translator)

    def spell(ids: Sequence[int]) -> str:
        pieces = model.tokenizer.convert_ids_to_tokens(list(ids))
        text = model.tokenizer.convert_tokens_to_string(pieces)
        # Some tokenizers omit the blank before the first word of a text.
        return f" {text}" if pieces[0].startswith(BLANKS) and not text[:1].isspace() else text

    if workspace is not None:
        page = {"model": workspace.model, **ranked(found, spell, control=control is not None)}
        workspace.write(f"{workspace.model}.json", page)
    return audit_rows(found, control=control is not None, model=model.folder.name)


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    found = {**run.passages(PASSAGE), "workspace": run.workspace}
    if control := run.reference("control"):
        return {**found, "control": control}
    if run.dictionary() is None:
        raise MissingInput("model.control is not set, and there are no anchors to identify the target's words")
    return {
        **found,
        "base": run.reference("base"),
        "anchors": run.dictionary(),
        "keep_all_anchors": not run.config.anchors.filter,
        "match": run.config.anchors.match,
    }


SUITE = Suite(
    "words of the target predicted better than by the control; without one, nearly as well as by base",
    measure,
    options,
)
