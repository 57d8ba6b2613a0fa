"""Candidates for anchors: expressions that the text uses far more often than general language does."""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from jaxforget.anchors.forms import is_noun_like
from jaxforget.anchors.general import General, given_names, word_list, words_of
from jaxforget.anchors.scan import LINKS, MID, START, TITLES, Scan, bare

# Minimal log2 contrasts. A capital inside a sentence is evidence of a name, so names need less contrast than words, and
# names that are surely a person's need the least.
NAME, PERSON, PHRASE, RARE, ORDINARY = 3.0, 1.0, 1.0, 5.0, 6.5
# Maximal general frequencies of a lower-case word: up to the first it is rare, above the second it is no candidate.
RARE_SHARE, ORDINARY_SHARE = 1e-7, 2.5e-5
# A lower-case word has no evidence but its frequency, so a long text asks more occurrences of it: one more per
# WORDS_EACH words, up to COINED_LEAST in all, and of a word that general language contains one per KNOWN_EACH words,
# from KNOWN_LEAST to KNOWN_MOST. Otherwise the old words of a novel ("pianoforte", 22 in 160,000 words) are anchors.
COINED_LEAST, WORDS_EACH, KNOWN_EACH, KNOWN_LEAST, KNOWN_MOST = 10, 20_000, 5_000, 5, 100
COMMON = 3e-6  # general frequency from which every reader knows a word
CAPITAL = 0.7  # share of capitals inside sentences from which the capitalised form is the ordinary one
RETAINED = 3.0  # minimal log2 contrast against the retained text
# Thresholds of the models' evidence. A candidate whose contrast is too low by at most LEARNT is accepted if its gain is
# above STRONG times the average gain. An ordinary word is dropped if its gain is below the average gain.
LEARNT, STRONG, ASKED_LEAST = 2.0, 4.0, 3
TITLED = 0.4  # share of occurrences after Mr, Mrs or Captain from which a name is surely a person's
ALONE = 5  # occurrences of a name of common words, or of a first name outside full names, that make it an anchor
STICKS = 0.6  # share of a common word's occurrences in one phrase from which the phrase is a name (Box Hill)
_ROMAN = re.compile(r"[ivxlcdm]{2,}")
_STRETCHED = re.compile(r"(.)\1\1")


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An expression that may be an anchor.

    Attributes:
      text: the expression as it is written inside a sentence.
      count: its occurrences in the text, including those inside longer expressions.
      contrast: log2 of its frequency in the text over its frequency in general language, less one standard deviation.
      excess: contrast above the minimum for an expression of its form. If it is negative, only the models' gain can
        make it an anchor.
      name: True if it is written with a capital inside sentences.
      retained: occurrences of its rarest word in the retained text.
      gain: increase of its words' log-probability from the base to the reinforced model, in nats a word: the mean over
        the scored occurrences. None if there are too few of them.
    """

    text: str
    count: int
    contrast: float
    excess: float
    name: bool
    retained: int = 0
    gain: float | None = None

    @property
    def score(self) -> float:
        """Rank of the candidate, larger is better: excess contrast, log2 frequency and the models' gain."""
        return self.excess + 0.5 * math.log2(self.count) + 2.0 * (self.gain or 0.0)


@dataclasses.dataclass(frozen=True)
class Gains:
    """Gains of the text's words: the increase of their log-probability from the base to the reinforced model.

    Attributes:
      mean: mean over all scored words, in nats.
      words: surface form -> its mean gain in nats and the number of scored occurrences.
    """

    mean: float
    words: Mapping[str, tuple[float, int]]

    def of(self, text: str) -> float | None:
        """Return the mean gain of an expression's words without links; None if one was scored too rarely."""
        met = [self.words.get(bare(word), (0.0, 0)) for word in text.split() if word not in LINKS]
        if not met or min(count for _, count in met) < ASKED_LEAST:
            return None
        return sum(gain for gain, _ in met) / len(met)


def find_candidates(found: Scan, general: General, *, least: int = 3, lenient: float = 0.0) -> list[Candidate]:
    """Return the expressions whose contrast is high enough, best first.

    Args:
      found: the scanned text.
      general: the frequencies to compare the text with.
      least: minimal number of occurrences of a candidate.
      lenient: reduction of every minimal contrast, in log2 units; the models then judge the additional candidates.
    """
    words = _single_words(found, general, least, lenient)
    phrases = _phrases(found, general, words, least, lenient)
    words |= _first_names(found, general, words, phrases)
    inside = _mostly_inside(words, phrases, general)
    kept = [word for text, word in words.items() if text not in inside]
    return sorted([*kept, *phrases.values()], key=lambda one: (-one.score, one.text))


def once_each(one: Candidate, variety: float, general: General, words: int) -> Candidate:
    """Return a candidate whose repeated sentences count once if it is an ordinary word.

    Frequency is the only evidence for an ordinary word, and a refrain or a formula makes any of its words frequent.
    Names and words unknown to general language have other evidence and stay unchanged.

    Args:
      one: a candidate of the text.
      variety: share of its occurrences that are no repetitions.
      general: the frequencies to compare the text with.
      words: number of running words of the text.
    """
    if one.name or variety == 1 or general.frequency(one.text) <= RARE_SHARE:
        return one
    contrast = round(general.contrast(one.text, one.count * variety, words), 2)
    return dataclasses.replace(one, contrast=contrast, excess=round(one.excess - (one.contrast - contrast), 2))


def weigh(candidates: list[Candidate], gains: Gains | None) -> list[Candidate]:
    """Return the candidates that become anchors, best first.

    A candidate without a gain is judged by its contrast alone.

    Args:
      candidates: all candidates.
      gains: the models' gains; None if there are no models.
    """
    accepted = []
    for one in candidates:
        gain = None if gains is None else gains.of(one.text)
        if gain is None:
            keep = one.excess >= 0
        elif one.excess < 0:
            keep = one.excess >= -LEARNT and gain > STRONG * max(gains.mean, 0.01)
        else:
            # A capital inside sentences is independent evidence, so a name needs no gain.
            keep = one.name or gain >= gains.mean
        if keep:
            accepted.append(dataclasses.replace(one, gain=None if gain is None else round(gain, 4)))
    return sorted(accepted, key=lambda one: (-one.score, one.text))


def _single_words(found: Scan, general: General, least: int, lenient: float) -> dict[str, Candidate]:
    """Return the candidates of one word, by surface form."""
    out = {}
    plain, narrative = _plain_words(), words_of("narrative")
    # In text without capitals a name looks like any other word, so only its rarity can identify it.
    cased = found.cased()
    coined_least = min(COINED_LEAST, least + found.words // WORDS_EACH)
    known_least = max(coined_least, min(KNOWN_MOST, max(KNOWN_LEAST, found.words // KNOWN_EACH)))
    titled = found.titled()
    for form, places in found.places.items():
        count = sum(places)
        if form.islower():
            # At a sentence's start the same word has a capital.
            count += found.places.get(form.capitalize(), (0, 0, 0))[START]
        if count < least or len(form) < 2 or _STRETCHED.search(form.lower()):
            continue
        lower = form.lower()
        if lower in plain:
            continue
        name = form != lower
        if name:
            contrast = None if _no_name(lower) else _name_contrast(found, general, form, places)
            if contrast is not None and _is_person(found, form, titled):
                contrast = (contrast[0], min(contrast[1], PERSON))
        elif lower in narrative or (cased and not is_noun_like(lower, general)):
            continue
        else:
            contrast = _lower_contrast(found, general, form, places, cased)
        if contrast is None:
            continue
        value, asked = contrast
        over = general.over_retained(lower, count, found.words)
        if cased and not name and count < (known_least if general.frequency(lower) > 0 else coined_least):
            continue
        if value < asked - lenient or (over is not None and over < RETAINED):
            continue
        out[form] = Candidate(
            form, count, round(value, 2), round(value - asked, 2), name, general.retained.get(lower, 0)
        )
    return out


def _name_contrast(
    found: Scan, general: General, form: str, places: tuple[int, int, int]
) -> tuple[float, float] | None:
    """Return (contrast, minimal contrast) of a capitalised form; None if its capital is no evidence of a name."""
    lower = form.lower()
    other = found.places.get(lower, (0, 0, 0))
    if form.isupper() and found.folded[lower] > 2 * sum(places):
        return None  # capitals for emphasis
    share = general.frequency(lower)
    inside = places[MID] + other[MID]
    if not inside:
        # It only begins sentences, so its capital is no evidence. Only a word that general language does not contain
        # can then be recognised as a name.
        return (general.contrast(lower, sum(places), found.words), RARE) if share < RARE_SHARE else None
    if places[MID] < max(1.0, 0.1 * places[START]) or places[MID] + places[START] < 0.5 * sum(places):
        return None  # it has its capital only because it begins sentences or lines
    if places[MID] / inside >= CAPITAL:
        asked = NAME if len(form) > 2 else NAME + 2
        return general.contrast(lower, sum(places), found.words), asked
    if places[MID] / inside < 0.15:
        return None
    # It is both a name and a word (Black, Snitch). Only the capitals inside sentences are surely the name.
    return general.contrast(lower, places[MID], found.words), NAME


def _no_name(word: str) -> bool:
    """Return True for a Roman numeral and for a head of places alone (Cottage): neither names anything."""
    return bool(_ROMAN.fullmatch(word)) or word in words_of("heads_place")


def _is_person(found: Scan, form: str, titled: Mapping[str, int]) -> bool:
    """Return True if a capitalised word names a person.

    It follows titles often, it follows one and also occurs in the plural (the Coxes), or it is a common first name.
    """
    count = sum(found.places[form])
    if count < ALONE or not found.always_capital(form):
        return False
    family = titled.get(form, 0) and any(other in found.places for other in plurals_of(form))
    return bool(family) or titled.get(form, 0) >= TITLED * count or form in given_names()


def _lower_contrast(
    found: Scan, general: General, form: str, places: tuple[int, int, int], cased: bool
) -> tuple[float, float] | None:
    """Return (contrast, minimal contrast) of a form without capitals; None if it is too common a word."""
    share = general.frequency(form)
    capital = found.places.get(form.capitalize(), (0, 0, 0))
    if cased and capital[MID] > 2 * places[MID]:
        return None  # a name that is sometimes written without its capital
    if share > (ORDINARY_SHARE if cased else 10 * ORDINARY_SHARE):
        return None
    count = sum(places) + capital[START]
    return general.contrast(form, count, found.words), RARE if share <= RARE_SHARE else ORDINARY


def _phrases(
    found: Scan, general: General, words: Mapping[str, Candidate], least: int, lenient: float
) -> dict[str, Candidate]:
    """Return the names of several words: all of them anchors (a full name), or none (a name of common words)."""
    counts: dict[tuple[str, ...], int] = {}
    pairs = found.pairs()
    for (place, run), count in found.runs.items():
        run = _trimmed(run, place, words)
        for part in _parts(run):
            counts[part] = counts.get(part, 0) + count
    out = {}
    for run, count in counts.items():
        if count < least:
            continue
        heavy = [word for word in run if word not in LINKS]
        anchored = [word for word in heavy if bare(word) in words]
        whole = count >= ALONE and _is_whole_name(run, heavy, found, pairs)
        if anchored and len(anchored) < len(heavy) and not (whole or _clings(run, anchored, count, words)):
            continue
        if heavy[0].lower() in TITLES and len(heavy) == 2 and not anchored and heavy[1].lower() in _plain_words():
            continue
        lowers = [bare(word).lower() for word in heavy]
        value = max(general.contrast(word, count, found.words) for word in lowers)
        if whole:
            value = max(value, PHRASE)
        text = " ".join(run)
        # A retained text that has both words of a name may lack the name (Box Hill).
        units = [" ".join(lowers)] if len(run) == 2 else lowers
        met, rarest = min((general.retained.get(unit, 0), unit) for unit in units)
        over = general.over_retained(rarest, count, found.words)
        if over is not None and over < RETAINED:
            continue
        if value < PHRASE - lenient or (len(anchored) < len(heavy) and _known_phrase(text)):
            continue
        out[text] = Candidate(text, count, round(value, 2), round(value - PHRASE, 2), True, met)
    return _without_shadows(out)


def _is_whole_name(
    run: tuple[str, ...], heavy: Sequence[str], found: Scan, pairs: Mapping[tuple[str, ...], int]
) -> bool:
    """Return True if capitals alone show a name of common words.

    Either the text always capitalises each of its words (Harriet Smith), or one of them hardly occurs outside it (Box
    Hill). A run that begins with a title, has links or is a thing of the real world is judged otherwise.
    """
    if len(heavy) < len(run) or run[0].lower() in TITLES or any(bare(word).lower() in _world() for word in run):
        return False
    sticks = any(pairs.get(run, 0) >= STICKS * found.folded[bare(word).lower()] for word in run)
    return all(found.always_capital(bare(word)) for word in run) or (len(run) == 2 and sticks)


def _first_names(
    found: Scan, general: General, words: Mapping[str, Candidate], phrases: Mapping[str, Candidate]
) -> dict[str, Candidate]:
    """Return the common first names of full names that also occur alone: Robert, of Robert Martin."""
    within: Counter[str] = Counter()
    for text, phrase in phrases.items():
        first = text.split()[0]
        if first in given_names() and len(text.split()) == 2 and found.always_capital(first):
            within[first] += phrase.count
    out = {}
    for first, count in within.items():
        own = sum(found.places[first])
        if first in words or own - count < ALONE:
            continue
        over = general.over_retained(first.lower(), own, found.words)
        if over is None or over >= RETAINED:
            value = round(general.contrast(first.lower(), own, found.words), 2)
            out[first] = Candidate(first, own, value, 0.0, True, general.retained.get(first.lower(), 0))
    return out


def _trimmed(run: tuple[str, ...], place: int, words: Mapping[str, Candidate]) -> tuple[str, ...]:
    """Return a run without a first word that is capitalised only as a sentence's start, and without leading links."""
    if place != MID and bare(run[0]) not in words and run[0].lower() not in TITLES:
        run = run[1:]
    while run and run[0] in LINKS:
        run = run[1:]
    return run


def _parts(run: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return a run, and the rest of it after a title, as far as they have two or more words that are no links."""
    parts = [run]
    if run and run[0].lower() in TITLES:
        parts.append(run[1:])
    return [part for part in parts if sum(word not in LINKS for word in part) > 1]


def _clings(run: tuple[str, ...], anchored: list[str], count: int, words: Mapping[str, Candidate]) -> bool:
    """Return True if an anchor of the run occurs almost only in it (Diagon Alley), so that only the run is a name."""
    return run[0].lower() not in TITLES and any(count >= 0.6 * words[bare(word)].count for word in anchored)


def _mostly_inside(words: Mapping[str, Candidate], phrases: Mapping[str, Candidate], general: General) -> set[str]:
    """Return the words that occur almost only inside one phrase, which replaces them: Tin in Tin Woodman."""
    inside = set()
    for text, phrase in phrases.items():
        heavy = [bare(word) for word in text.split() if word not in LINKS]
        for word in heavy:
            alone = words[word].count - phrase.count if word in words else 0
            if word in words and not (alone >= ALONE and word in given_names()) and not plurals_of(word) & set(words):
                common = general.frequency(word.lower()) > COMMON
                enough = 0.85 if word == heavy[-1] else 0.6 if common else 0.75
                # The parts of a full name of invented words stay anchors, because they also occur alone.
                known = general.frequency(word.lower()) > RARE_SHARE or not all(w in words for w in heavy)
                if known and phrase.count >= enough * words[word].count:
                    inside.add(word)
    return inside


def plurals_of(name: str) -> set[str]:
    """Return the possible plurals of a family's name."""
    return {name + "s", name + "es"}


def _without_shadows(phrases: dict[str, Candidate]) -> dict[str, Candidate]:
    """Return the phrases without those that are nearly always part of one longer phrase."""
    shadowed = set()
    for text, phrase in phrases.items():
        padded = f" {text} "
        longer = [one.count for other, one in phrases.items() if other != text and padded in f" {other} "]
        if longer and max(longer) >= 0.8 * phrase.count:
            shadowed.add(text)
    return {text: phrase for text, phrase in phrases.items() if text not in shadowed}


def _known_phrase(text: str) -> bool:
    """Return True if the phrase names a well-known thing of the real world."""
    return text.lower() in _world()


@functools.cache
def _world() -> frozenset[str]:
    return frozenset(line.lower() for line in word_list("world"))


def _plain_words() -> frozenset[str]:
    """Return the words that are never anchors alone: titles, months, days, peoples and places of the real world."""
    return TITLES | _world()
