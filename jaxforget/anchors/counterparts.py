"""Generic counterparts: of the same kind, number and case, the parts of a name agreeing, and none of the text's own."""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Mapping, Sequence

from jaxforget.anchors.candidates import COMMON
from jaxforget.anchors.contexts import Context
from jaxforget.anchors.general import General, word_list
from jaxforget.anchors.kinds import Nature
from jaxforget.anchors.scan import LINKS, TITLES, Scan, bare

# Ranks options for an anchor: larger fits better; None where no model is asked.
Prefer = Callable[[str, Sequence[str]], Sequence[float]] | None
# Titles that stand before a family name; others (Sir, Aunt, King) stand before a first name.
_FAMILY = "mr mrs ms miss dr prof professor doctor captain colonel major general sergeant lieutenant inspector missus"
FAMILY_TITLES = frozenset(_FAMILY.split())
VOWELS = "aeiouAEIOU"
_IRREGULAR = {"man": "men", "woman": "women", "calf": "calves", "wolf": "wolves", "goose": "geese", "mouse": "mice",
              "ox": "oxen", "fish": "fish", "deer": "deer", "moose": "moose", "elk": "elk", "trout": "trout",
              "salmon": "salmon", "shelf": "shelves", "penknife": "penknives"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
    """What the counterparts of one anchor are drawn from: a list's name, and how its entries are written."""

    pool: str
    plural: bool
    capital: bool


@functools.cache
def pool(name: str) -> tuple[str, ...]:
    """The entries of a list whose lines hold several, parted by commas."""
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
    """Every anchor's counterparts, at most `each`, the i-th ones of a name's parts belonging together.

    Args:
      natures: what each anchor names; every anchor is a key.
      contexts: places of each anchor, for the articles before it.
      found: the scanned text: none of its words is given as a counterpart where a list holds others.
      general: frequencies of general language: a phrase keeps the head that everybody knows.
      each: counterparts of an anchor.
      seed: of the order in which lists are used.
      prefer: a model's ranking of options in the anchor's own sentences.
    """
    chooser = _Chooser(natures, contexts, found, each, seed, prefer)
    plurals = stems(natures)
    out: dict[str, list[str]] = {}
    # Single words first, singulars before plurals: what others are made of must stand when those are made.
    for text in sorted(natures, key=lambda text: (len(text.split()), text in plurals)):
        words = text.split()
        heavy = [word for word in words if word not in LINKS]
        if text in plurals:
            out[text] = list(dict.fromkeys(plural(option) for option in out[plurals[text]]))
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
    """The list that fits an anchor, and the form that its entries take."""
    capital = text.split()[-1][0].isupper()
    counted = nature.sort in ("roles", "peoples", "things", "creatures", "spots")
    return Part(nature.sort, nature.plural and counted, capital)


def stems(texts: Iterable[str]) -> dict[str, str]:
    """Return the plurals whose singular is an anchor too, plural -> singular: Weasleys -> Weasley."""
    known = set(texts)
    return {
        text: text[: -len(ending)]
        for text in known
        for ending in ("es", "s")
        if len(text) > 3 and text.endswith(ending) and text[: -len(ending)] in known
    }


class _Chooser:
    """Draws from the lists: unused entries first, none that the text has, and what the model likes best."""

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
        # The head of a phrase is everybody's word, not the anchor.
        self._anchors -= {
            text.split()[-1].lower() for text in natures if " " in text and text.split()[-1] not in natures
        }
        self._contexts, self._found, self._each, self._seed = contexts, found, each, seed
        self._prefer = prefer
        self._used: dict[str, int] = {}

    def choose(self, text: str, part: Part) -> list[str]:
        """Counterparts of one anchor from one list."""
        options = [written(entry, part) for entry in pool(part.pool)]
        return self._best(text, options)

    def phrase(self, text: str, words: Sequence[str], kept: int) -> list[str]:
        """Counterparts of a phrase of common words: the head, word number `kept`, stays, the others are exchanged."""
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
        # A string seeds by its digest: equal on every machine, and one anchor's draws do not move another's.
        rng = random.Random(f"counterparts {self._seed}: {text}")
        articles = {one.before[0] for one in self._contexts.get(text, ()) if one.before} & {"a", "an"}

        def cost(option: str) -> tuple[float, ...]:
            wrong = len(articles) == 1 and not fits_article(option, articles)
            return (self._met(option), self._used.get(option, 0), wrong, rng.random())

        costs = {option: cost(option) for option in options}
        ranked = sorted(costs, key=lambda option: costs[option])
        if self._prefer is not None and text in self._contexts:
            asked = [option for option in ranked if costs[option][:3] == costs[ranked[0]][:3]]
            liked = dict(zip(asked, self._prefer(text, asked), strict=True))
            ranked = sorted(asked, key=lambda option: -liked[option]) + [o for o in ranked if o not in liked]
        chosen = ranked[: self._each]
        for option in chosen:
            self._used[option] = self._used.get(option, 0) + 1
        return chosen

    def _met(self, option: str) -> int:
        """2: an anchor or part of one; 1: every word of it stands in the text; 0: it is new to the text."""
        words = option.lower().split()
        if any(word in self._anchors for word in words):
            return 2
        return int(all(self._found.folded.get(word, 0) for word in words))


def _compose(words: Sequence[str], parts: Mapping[str, Sequence[str]], each: int) -> list[str]:
    """A name's counterparts from those of its parts, index by index; words that are no anchors stay."""
    rows = [[word] * each if bare(word) not in parts else list(parts[bare(word)]) for word in words]
    count = min(each, *(len(row) for row in rows))
    made = [" ".join(row[i % len(row)] for row in rows) for i in range(count)]
    return list(dict.fromkeys(made))


def _missing(
    word: str, words: Sequence[str], natures: Mapping[str, Nature], parts: Mapping[str, Sequence[str]]
) -> Part | None:
    """The list for a part of a name that is no anchor by itself but would give the name away; None where it stays."""
    if bare(word) in parts or any(link in words for link in LINKS) or word.lower() in TITLES:
        return None
    known = next(natures[bare(other)] for other in words if bare(other) in natures)
    if known.kind != "person" or known.sort in ("roles", "peoples"):
        return Part("modifiers", False, True) if word != words[-1] else None
    return Part("families" if word == words[-1] else "people_female" if known.female else "people_male", False, True)


def _head(words: Sequence[str], natures: Mapping[str, Nature], general: General) -> int | None:
    """The place of the word that says what a phrase of common words is; None where nobody would know it."""
    link = next((place for place, word in enumerate(words) if word in LINKS), None)
    place = link - 1 if link else len(words) - 1
    known = general.frequency(bare(words[place]).lower()) > COMMON and words[place] not in natures
    return place if known else None


def _swapped(words: Sequence[str], place: int, kept: int) -> bool:
    """Whether a word of a phrase is exchanged: all behind a link, else the one next to the head."""
    if any(word in LINKS for word in words):
        return place > kept and words[place] not in LINKS and (place + 1 == len(words) or words[place + 1] in LINKS)
    return place == kept - 1


def written(entry: str, part: Part) -> str:
    """An entry in the number and case that its anchor has."""
    if part.plural:
        entry = plural(entry)
    return " ".join(word[0].upper() + word[1:] for word in entry.split()) if part.capital else entry


def plural(noun: str) -> str:
    """The plural of a noun of the lists, its last word changed."""
    *head, last = noun.split()
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.endswith("man"):
        last = last[:-3] + "men"
    elif last.islower() and last.endswith("s") and not last.endswith("ss"):
        pass  # pliers, bellows: there is no other form
    elif last.endswith(("s", "x", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2] not in VOWELS:
        last = last[:-1] + "ies"
    else:
        last += "s"
    return " ".join([*head, last])


def fits_article(option: str, articles: Iterable[str]) -> bool:
    """Whether an option can stand where the articles "a" or "an" (those given) stand before the anchor."""
    return all((option[0] in VOWELS) == (article == "an") for article in articles)
