"""A dictionary from the text itself: candidates, what they name, counterparts; each entry with its evidence."""

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

OPTIONS = 12  # counterparts that base is asked to rank for one anchor
NOUN_SHARE = 0.4  # of a lower-case candidate's places that must look like a noun's
ASKED = 600  # of the best candidates, for whose kinds base is asked: each takes it some hundred short sentences


class Judge(Protocol):
    """The models, where they are asked."""

    def gains(self) -> Gains:
        """How much the reinforced model raises the text's words over base."""

    def familiar(self, options: Sequence[str], count: int) -> Sequence[str]:
        """The `count` of the options that base's tokenizer knows best."""

    def likelihoods(self, contexts: Sequence[Context], options: Sequence[str]) -> Sequence[float]:
        """For each option, in place of the expression in `contexts`: base's mean log-probability of what it makes of
        the sentences, less the option's own by itself; larger fits better."""


@dataclasses.dataclass(frozen=True)
class Found:
    """An extracted dictionary.

    Attributes:
      anchors: the entries, names of several words before their parts, each with its evidence.
      warnings: a line for whatever makes them doubtful.
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
) -> Found:
    """Finds a text's anchors and their counterparts.

    Args:
      read: yields the documents of the text; called twice.
      retained: text to keep, a further contrast; None = none.
      language: of the text, as `wordfreq` names it. The lists of counterparts are English.
      least: occurrences asked of an anchor.
      most: anchors at most, the best.
      each: counterparts of an anchor.
      seed: of the order in which counterparts are drawn.
      models: base and the reinforced model, where they are to judge; None = statistics alone.

    Raises:
      UserError: an unknown language; a text in which nothing stands out.
    """
    found = scan(read())
    kept = None if retained is None else scan(retained)
    general = General(frequencies(language), kept.folded if kept else {}, kept.words if kept else 0)
    gains = None if models is None else models.gains()
    loose = find_candidates(found, general, least=least, lenient=0.0 if gains is None else LEARNT)
    contexts = find_contexts(read(), {one.text: one.count for one in loose})
    candidates = weigh([once_each(one, variety(contexts[one.text]), general, found.words) for one in loose], gains)
    candidates = [one for one in candidates if one.name or noun_share(contexts[one.text], general) >= NOUN_SHARE][:most]
    if not candidates:
        raise UserError(
            "anchors: nothing in the text stands out against general language; give more of it, lower "
            "anchors.min_count, or bring a dictionary as anchors.path"
        )
    natures = judge_all(candidates, contexts, models)

    def prefer(text: str, options: Sequence[str]) -> Sequence[float]:
        # Of those that the tokenizer knows best: what it splits to pieces teaches base little.
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
    candidates: Sequence[Candidate], contexts: Mapping[str, Sequence[Context]], models: Judge | None
) -> dict[str, Nature]:
    """What every candidate names; the parts of a full name are persons, its last one a family."""
    firsts, families = name_parts(candidates, contexts)
    natures = {}
    for number, one in enumerate(candidates):
        around = contexts[one.text]
        nature = judge(one, around, family=one.text in families - firsts)
        if models is not None and number < ASKED:
            nature = with_models(nature, one.text, around, models)
        if one.text in firsts | families and not nature.plural:
            nature = dataclasses.replace(nature, kind="person", family=one.text in families - firsts)
            if nature.sort not in CAPITAL_SORTS["person"] or nature.family:
                nature = dataclasses.replace(nature, sort=choose_sort(nature, one.text, around))
        natures[one.text] = nature
    return natures


def _evidence(one: Candidate, nature: Nature, contexts: Sequence[Context]) -> dict[str, Any]:
    """What is saved beside an entry."""
    out = {"kind": nature.kind, "count": one.count, "contrast": one.contrast}
    if one.gain is not None:
        out["gain"] = one.gain
    if one.retained:
        out["retained"] = one.retained
    return {**out, "score": round(one.score, 2), "example": example(contexts)}


def doubts(
    found: Scan, general: General, candidates: Sequence[Candidate], natures: Mapping[str, Nature], language: str
) -> list[str]:
    """What makes an extracted dictionary doubtful, a line each: told, never passed over."""
    out = []
    if found.words < 5000:
        out.append(f"only {found.words:,} words: frequencies of so short a text say little; look at every entry")
    known = share_known(((word, count) for word, count in found.folded.items()), general)
    if known < 0.75:
        out.append(
            f"{1 - known:.0%} of the words are not in the word list of language {language!r}: another language? set "
            "anchors.language, and look at every entry"
        )
    if not found.cased():
        out.append(
            "the text has hardly a capital inside sentences: names cannot be told by case, only by rarity; names that "
            "are ordinary words are missing; look at every entry"
        )
    names = sum(one.count for one in candidates if one.name)
    everything = sum(one.count for one in candidates)
    persons = sum(one.count for one in candidates if one.name and natures[one.text].kind == "person")
    ordinary = sum(not one.name for one in candidates) / len(candidates)
    if found.cased() and (ordinary > 0.5 or persons < 0.25 * names):
        out.append(
            f"{ordinary:.0%} of the anchors are ordinary words and few name persons, as in non-fiction: no list has a "
            "counterpart of the same meaning for a technical term; review them, or ask an LLM (anchors.extractor)"
        )
    share = everything / max(found.words, 1)
    if share < 0.01:
        out.append(
            f"anchors are {share:.1%} of the words: little in this text is its own, and little will be forgotten"
        )
    return out
