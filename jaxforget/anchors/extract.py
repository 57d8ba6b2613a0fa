"""A dictionary from the text itself: candidates, their natures and counterparts, and the evidence of each entry."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from jaxforget.anchors.candidates import LEARNT, Candidate, Gains, find_candidates, once_each, weigh
from jaxforget.anchors.contexts import Context, example, find_contexts, noun_share, variety
from jaxforget.anchors.counterparts import find_counterparts
from jaxforget.anchors.general import General, frequencies, share_known
from jaxforget.anchors.kinds import CAPITAL_SORTS, Nature, choose_sort, judge
from jaxforget.anchors.naming import name_parts, with_models
from jaxforget.anchors.scan import Scan, scan
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document
from jaxforget.errors import UserError

OPTIONS = 12  # counterparts that base ranks for one anchor
NOUN_SHARE = 0.4  # minimal share of a lower-case candidate's occurrences that look like a noun
RANKED = 600  # best candidates whose kind base judges, because each costs about a hundred short sentences


class Judge(Protocol):
    """Interface of the models' evidence; `jaxforget.anchors.models_judge.ModelsJudge` implements it."""

    def gains(self) -> Gains:
        """Return how much the reinforced model raises the text's words over base."""

    def familiar(self, options: Sequence[str], count: int) -> Sequence[str]:
        """Return the `count` options that base's tokenizer splits into the fewest tokens."""

    def likelihoods(self, contexts: Sequence[Context], options: Sequence[str]) -> Sequence[float]:
        """Return how well each option fits in the expression's sentences, in nats; larger is better."""


@dataclasses.dataclass(frozen=True)
class Found:
    """An extracted dictionary.

    Attributes:
      anchors: the entries with their evidence; names of several words come before their parts.
      warnings: lines about what makes the dictionary doubtful.
    """

    anchors: Anchors
    warnings: tuple[str, ...]


def extract(
    read: Callable[[], Iterable[Document]],
    *,
    retained: Iterable[Document] | None = None,
    language: str = "en",
    least: int = 3,
    most: int = 2000,
    each: int = 3,
    seed: int = 0,
    models: Judge | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Find a text's anchors and their counterparts.

    Args:
      read: yields the documents of the text; called twice.
      retained: the retained text, with which the text is also compared; None if there is none.
      language: the text's language by its code in `wordfreq`. The lists of counterparts are English.
      least: minimal number of occurrences of an anchor.
      most: maximal number of anchors; the best are kept.
      each: counterparts of an anchor.
      seed: seed of the order in which counterparts are drawn.
      models: evidence of base and the reinforced model; None for statistics alone.
      progress: called with the number of expressions that the models have read, and of all that they read.

    Raises:
      UserError: the language is unknown, or the text has no anchor.
    """
    found = scan(read())
    kept = None if retained is None else scan(retained)
    general = General(frequencies(language), kept.expressions() if kept else {}, kept.words if kept else 0)
    gains = None if models is None else models.gains()
    loose = find_candidates(found, general, least=least, lenient=0.0 if gains is None else LEARNT)
    contexts = find_contexts(read(), {one.text: one.count for one in loose})
    candidates = weigh([once_each(one, variety(contexts[one.text]), general, found.words) for one in loose], gains)
    candidates = [one for one in candidates if one.name or noun_share(contexts[one.text], general) >= NOUN_SHARE][:most]
    if not candidates:
        raise UserError(
            "anchors: no expression of the text is more frequent than in general language; give more text, lower "
            "anchors.min_count, or give a dictionary as anchors.path"
        )
    natures = judge_all(candidates, contexts, models, progress)

    def prefer(text: str, options: Sequence[str]) -> Sequence[float]:
        # Only options of few tokens are ranked, because base learns little from a word that its tokenizer splits up.
        known = list(models.familiar(options, OPTIONS))
        scores = dict(zip(known, models.likelihoods(contexts[text], known), strict=True))
        return [scores.get(option, -math.inf) for option in options]

    pairs = find_counterparts(
        natures, contexts, found, general, each=each, seed=seed, prefer=None if models is None else prefer
    )
    ordered = sorted(candidates, key=lambda one: -len(one.text.split()))  # stable: by score among equals
    entries = {one.text: tuple(pairs[one.text]) for one in ordered}
    evidence = {one.text: _evidence(one, natures[one.text], contexts[one.text]) for one in ordered}
    warnings = doubts(found, general, candidates, natures, language)
    return Found(Anchors(entries, evidence), tuple(warnings))


def judge_all(
    candidates: Sequence[Candidate],
    contexts: Mapping[str, Sequence[Context]],
    models: Judge | None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Nature]:
    """Return every candidate's nature; the parts of a full name are persons, the last part a family name.

    Args:
      candidates: the candidates, best first.
      contexts: expression -> its occurrences.
      models: evidence of the models for the best candidates; None for the contexts alone.
      progress: called with the number of candidates that the models have judged, and of all that they judge.
    """
    firsts, families = name_parts(candidates, contexts)
    natures = {}
    for number, one in enumerate(candidates):
        around = contexts[one.text]
        nature = judge(one, around, family=one.text in families - firsts)
        if models is not None and number < RANKED:
            nature = with_models(nature, one.text, around, models)
            if progress is not None:
                progress(number + 1, min(len(candidates), RANKED))
        if one.text in firsts | families and not nature.plural:
            nature = dataclasses.replace(nature, kind="person", family=one.text in families - firsts)
            if nature.sort not in CAPITAL_SORTS["person"] or nature.family:
                nature = dataclasses.replace(nature, sort=choose_sort(nature, one.text, around))
        natures[one.text] = nature
    return natures


def _evidence(one: Candidate, nature: Nature, contexts: Sequence[Context]) -> dict[str, Any]:
    """Return the evidence that anchors.json stores with an entry."""
    out = {"kind": nature.kind, "count": one.count, "contrast": one.contrast}
    if one.gain is not None:
        out["gain"] = one.gain
    if one.retained:
        out["retained"] = one.retained
    return {**out, "score": round(one.score, 2), "example": example(contexts)}


def doubts(
    found: Scan, general: General, candidates: Sequence[Candidate], natures: Mapping[str, Nature], language: str
) -> list[str]:
    """Return warnings about what makes an extracted dictionary doubtful, one line each.

    Args:
      found: the scanned text.
      general: frequencies of general language.
      candidates: the anchors; at least one.
      natures: anchor -> its nature.
      language: the language of `general`.
    """
    out = []
    if found.words < 5000:
        out.append(f"only {found.words:,} words: frequencies in such a short text are unreliable; check every entry")
    known = share_known(((word, count) for word, count in found.folded.items()), general)
    if known < 0.75:
        out.append(
            f"{1 - known:.0%} of the words are not in the word list of language {language!r}; if the text has another "
            "language, set anchors.language; check every entry"
        )
    if not found.cased():
        out.append(
            "the text has almost no capitals inside sentences, so names are recognised only by rarity, and names that "
            "are ordinary words are missing; check every entry"
        )
    names = sum(one.count for one in candidates if one.name)
    everything = sum(one.count for one in candidates)
    persons = sum(one.count for one in candidates if one.name and natures[one.text].kind == "person")
    ordinary = sum(not one.name for one in candidates) / len(candidates)
    if found.cased() and (ordinary > 0.5 or persons < 0.25 * names):
        out.append(
            f"{ordinary:.0%} of the anchors are ordinary words and few name persons, as in non-fiction; no list has a "
            "counterpart of the same meaning for a technical term; review them, or use anchors.extractor=endpoint"
        )
    share = everything / max(found.words, 1)
    if share < 0.01:
        out.append(
            f"anchors are {share:.1%} of the words, so the text has little of its own, and little will be forgotten"
        )
    return out
