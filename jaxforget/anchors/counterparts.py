"""Generic counterparts of anchors: same kind, number and case, and not from the text itself.

The counterparts of a full name are composed of those of its parts.
"""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from jaxforget.anchors.candidates import COMMON
from jaxforget.anchors.contexts import Context
from jaxforget.anchors.general import General, given_names, word_list, words_of
from jaxforget.anchors.kinds import Nature
from jaxforget.anchors.scan import LINKS, TITLES, Scan, bare

# Scores options for an anchor, larger is better; None if there is no model.
Prefer = Callable[[str, Sequence[str]], Sequence[float]] | None
# Titles before a family name. All other titles (Sir, Aunt, King) precede a first name.
_FAMILY = (
    "mr mrs ms miss dr prof professor doctor captain colonel major general sergeant lieutenant inspector missus "
    "admiral commodore"
)
FAMILY_TITLES = frozenset(_FAMILY.split())
VOWELS = "aeiouAEIOU"
_IRREGULAR = {"man": "men", "woman": "women", "calf": "calves", "wolf": "wolves", "goose": "geese", "mouse": "mice",
              "ox": "oxen", "fish": "fish", "deer": "deer", "moose": "moose", "elk": "elk", "trout": "trout",
              "salmon": "salmon", "shelf": "shelves", "penknife": "penknives"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """The list from which an anchor's counterparts are drawn, and the form that its entries take."""

    pool: str
    plural: bool
    capital: bool


@functools.cache
def pool(name: str) -> tuple[str, ...]:
    """Return the entries of a comma-separated list, in order."""
    return tuple(entry.strip() for line in word_list(name) for entry in line.split(",") if entry.strip())


def find_counterparts(
    natures: Mapping[str, Nature],
    contexts: Mapping[str, Sequence[Context]],
    found: Scan,
    general: General,
    *,
    each: int = 3,
    seed: int = 0,
    prefer: Prefer = None,
) -> dict[str, list[str]]:
    """Return at most `each` counterparts of every anchor.

    The i-th counterpart of a full name consists of the i-th counterparts of its parts.

    Args:
      natures: anchor -> its nature; the keys are all anchors.
      contexts: anchor -> its occurrences, for the articles before it.
      found: the scanned text. A word of the text becomes a counterpart only if the list has no other.
      general: frequencies of general language. A phrase keeps a head that every reader knows.
      each: counterparts of an anchor.
      seed: seed of the order in which the entries of a list are used.
      prefer: a model's scores of options in the anchor's own sentences.

    Returns:
      anchor -> its counterparts, best first, in the order of `natures`.
    """
    chooser = _Chooser(natures, contexts, found, each, seed, prefer)
    plurals = stems(natures)
    out: dict[str, list[str]] = {}
    # Names and plurals need other anchors' counterparts, so single words come first and plurals after singulars.
    for text in sorted(natures, key=lambda text: (len(text.split()), text in plurals)):
        words = text.split()
        heavy = [word for word in words if word not in LINKS]
        if text in plurals:
            many = plural_name if natures[plurals[text]].family else plural
            out[text] = list(dict.fromkeys(many(option) for option in out[plurals[text]]))
        elif len(heavy) > 1 and any(bare(word) in out for word in heavy):
            rest = {word: part for word in heavy if (part := _missing(word, words, natures, out)) is not None}
            parts = {**out, **{word: chooser.choose(word, part) for word, part in rest.items()}}
            out[text] = _compose(words, parts, each)
        elif len(heavy) == 2 and heavy[0].lower() in TITLES and len(words) == 2:
            part = part_of(natures[text], heavy[1])
            if heavy[0].lower() in FAMILY_TITLES and part.pool in ("people_male", "people_female"):
                part = dataclasses.replace(part, pool="families")
            named = chooser.choose(heavy[1], part)
            out[text] = [f"{heavy[0]} {option}" for option in named]
        elif len(heavy) > 1 and (kept := _head(words, natures, general)) is not None:
            out[text] = chooser.phrase(text, words, kept)
        else:
            out[text] = chooser.choose(text, part_of(natures[text], text))
    return {text: out[text] for text in natures}


def part_of(nature: Nature, text: str) -> Part:
    """Return the list of an anchor, and the form that its entries take."""
    capital = text.split()[-1][0].isupper()
    counted = nature.sort in ("roles", "peoples", "things", "creatures", "spots")
    return Part(nature.sort, nature.plural and counted, capital)


def stems(texts: Iterable[str]) -> dict[str, str]:
    """Return the plurals whose singular is also an anchor, plural -> singular: Weasleys -> Weasley."""
    known = set(texts)
    return {
        text: text[: -len(ending)]
        for text in known
        for ending in ("es", "s")
        if len(text) > 3 and text.endswith(ending) and text[: -len(ending)] in known
    }


class _Chooser:
    """Choice of counterparts from the lists: entries that are new to the text first, then unused ones.

    The model's preference decides among equals.
    """

    def __init__(
        self,
        natures: Mapping[str, Nature],
        contexts: Mapping[str, Sequence[Context]],
        found: Scan,
        each: int,
        seed: int,
        prefer: Prefer,
    ):
        self._anchors = {bare(word).lower() for text in natures for word in text.split() if word not in LINKS}
        # The head of a phrase is a common word and no anchor.
        self._anchors -= {
            text.split()[-1].lower() for text in natures if " " in text and text.split()[-1] not in natures
        }
        self._contexts, self._found, self._each, self._seed = contexts, found, each, seed
        self._prefer = prefer
        self._used: dict[str, int] = {}

    def choose(self, text: str, part: Part) -> list[str]:
        """Return the counterparts of one anchor from one list."""
        options = [written(entry, part) for entry in pool(part.pool)]
        return self._best(text, options)

    def phrase(self, text: str, words: Sequence[str], kept: int) -> list[str]:
        """Return the counterparts of a phrase of common words; its head, word number `kept`, stays."""
        behind = any(word in LINKS for word in words)
        entries = [entry.title() for entry in pool("things")] if behind else pool("modifiers")
        options = []
        for entry in entries:
            swapped = []
            for place, word in enumerate(words):
                several = behind and word.endswith("s") and not word.endswith(("ss", "us", "'s", "’s"))
                fitting = plural(entry) if several else entry
                swapped.append(fitting if _swapped(words, place, kept) else word)
            options.append(" ".join(swapped))
        return self._best(text, list(dict.fromkeys(options)))

    def _best(self, text: str, options: Sequence[str]) -> list[str]:
        # A string seeds by its digest: draws are equal on every machine and independent of the other anchors.
        rng = random.Random(f"counterparts {self._seed}: {text}")
        articles = {one.before[0] for one in self._contexts.get(text, ()) if one.before} & {"a", "an"}

        def cost(option: str) -> tuple[float, ...]:
            wrong = len(articles) == 1 and not fits_article(option, articles)
            return (self._met(option), self._used.get(option, 0), wrong, rng.random())

        costs = {option: cost(option) for option in options}
        ranked = sorted(costs, key=lambda option: costs[option])
        if self._prefer is not None and text in self._contexts:
            equal = [option for option in ranked if costs[option][:3] == costs[ranked[0]][:3]]
            score = dict(zip(equal, self._prefer(text, equal), strict=True))
            ranked = sorted(equal, key=lambda option: -score[option]) + [o for o in ranked if o not in score]
        chosen = ranked[: self._each]
        for option in chosen:
            self._used[option] = self._used.get(option, 0) + 1
        return chosen

    def _met(self, option: str) -> int:
        """Return 2 for an anchor or part of one, 1 if the text has every word of `option`, else 0."""
        words = option.lower().split()
        if any(word in self._anchors for word in words):
            return 2
        return int(all(self._found.folded.get(word, 0) for word in words))


def _compose(words: Sequence[str], parts: Mapping[str, Sequence[str]], each: int) -> list[str]:
    """Return a name's counterparts, composed of those of its parts; words that are no anchors stay."""
    rows = [[word] * each if bare(word) not in parts else list(parts[bare(word)]) for word in words]
    count = min(each, *(len(row) for row in rows))
    made = [" ".join(row[i % len(row)] for row in rows) for i in range(count)]
    return list(dict.fromkeys(made))


def _missing(
    word: str, words: Sequence[str], natures: Mapping[str, Nature], parts: Mapping[str, Sequence[str]]
) -> Part | None:
    """Return the list for a part of a name that is no anchor but would reveal the name; None if the part stays."""
    first = word == words[0] and word in given_names()  # Agnes de Varr
    if bare(word) in parts or word.lower() in TITLES or (not first and any(link in words for link in LINKS)):
        return None
    if bare(word).lower() in words_of("heads_place"):
        return None  # the head of a place that bears a family's name: Lucas Lodge
    known = next(natures[bare(other)] for other in words if bare(other) in natures)
    female = natures[" ".join(words)].female  # the family name's own contexts show other members of the family
    if known.kind != "person" or known.sort in ("roles", "peoples"):
        return Part("modifiers", False, True) if word != words[-1] else None
    return Part("families" if word == words[-1] else "people_female" if female else "people_male", False, True)


def _head(words: Sequence[str], natures: Mapping[str, Nature], general: General) -> int | None:
    """Return the index of the head of a phrase of common words; None if the head is no common word."""
    link = next((place for place, word in enumerate(words) if word in LINKS), None)
    place = link - 1 if link else len(words) - 1
    known = general.frequency(bare(words[place]).lower()) > COMMON and words[place] not in natures
    return place if known else None


def _swapped(words: Sequence[str], place: int, kept: int) -> bool:
    """Return True if a word of a phrase is replaced: the nouns after a link, or else the word before the head."""
    if any(word in LINKS for word in words):
        return place > kept and words[place] not in LINKS and (place + 1 == len(words) or words[place + 1] in LINKS)
    return place == kept - 1


def written(entry: str, part: Part) -> str:
    """Return a list's entry in the number and case of its anchor."""
    if part.plural:
        entry = plural(entry)
    return " ".join(word[0].upper() + word[1:] for word in entry.split()) if part.capital else entry


def plural(noun: str) -> str:
    """Return the plural of a noun of the lists; only its last word changes."""
    *head, last = noun.split()
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("man"):
        last = last[:-3] + "men"
    elif last.islower() and last.endswith("s") and not last.endswith("ss"):
        pass  # pliers, bellows: already a plural
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2] not in VOWELS:
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*head, last])


def plural_name(family: str) -> str:
    """Return the plural of a family name, which changes no letter: the Newmans, the Kennedys, the Foxes."""
    return family + ("es" if family.endswith(("s", "x", "z", "ch", "sh")) else "s")


def fits_article(option: str, articles: Iterable[str]) -> bool:
    """Return True if `option` agrees with all of `articles` ("a", "an")."""
    return all((option[0] in VOWELS) == (article == "an") for article in articles)
