"""The toy world's people, places and things: invented universes, and everyday people drawn from common words."""

import random
from dataclasses import dataclass

from jaxforget.demo.relations import RELATIONS


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Everyday words by kind: answers of everyday people, and counterparts in the dictionary. No word that may follow an
# article begins with a vowel, so "a" fits all of them and every invented word.
MEN = _words(
    "Jon Peter Tom Sam Ben Mark Paul David George Robert James Simon Daniel Martin Henry Philip Frank Walter "
    "Luke Charles"
)
WOMEN = _words(
    "Mary Susan Jane Kate Lucy Helen Nancy Sarah Rose Laura Ruth Clara Julia Grace Martha Betty Diana Sophie "
    "Molly Louise"
)
FAMILIES = _words("Baker Miller Carter Turner Cooper Walker Parker Fisher Mason Porter Taylor Brown White Green")
POOLS: dict[str, tuple[str, ...]] = {
    "person": tuple(name for pair in zip(MEN, WOMEN, strict=True) for name in pair),
    "village": _words("Milton Weston Newport Hilton Brighton Dover Kingston Preston Bedford Norton Sutton Langford"),
    "school": _words("Greenfield Hillside Brookdale Parkside Fairview Lakewood Southgate Riverside"),
    "craft": _words("baking painting knitting sewing gardening carpentry pottery weaving drawing cooking"),
    "beast": _words("dog cat pony rabbit parrot hamster goat hen lamb donkey"),
    "game": _words("football tennis chess cricket hockey rugby golf polo"),
    "thing": _words("pencil button ribbon coin marble whistle key feather spoon bell"),
    "food": _words("soup porridge stew rice bread fish pudding cheese"),
    "word": _words("Sunshine Thunder Pepper Silver Winter Midnight Lemon Copper"),
    "land": _words("Kent Devon Dorset Surrey Norfolk Somerset"),
    "river": _words("Thames Severn Trent Mersey Tweed Humber"),
    "wood": _words("Sherwood Redwood Beechwood Pinewood Maplewood Boxwood"),
}
ONSETS = _words("b br d dr f fl g gr h k kl l m n p pl r s sk st t th tr v w y z")
CODAS = _words("k l m n r sh th s nd rd lt")
LOWER_KINDS = ("craft", "beast", "game", "thing", "food")

# Relations of each of a universe's three heroes. No two answers in a universe are equal, so one fact never reveals
# another. The first hero's friend and foe are the other two heroes.
CAST = (
    tuple(relation.name for relation in RELATIONS),
    ("home", "pet", "charm", "teacher", "craft", "foe", "supper"),
    ("home", "school", "friend", "game", "word"),
)

COUNTERPARTS = 2  # of each anchor


@dataclass(frozen=True)
class Person:
    """A person in a story; `facts` maps the name of a relation to its answer."""

    first: str
    family: str
    female: bool
    facts: dict[str, str]

    @property
    def full(self) -> str:
        """First name and family name."""
        return f"{self.first} {self.family}"


@dataclass(frozen=True)
class Universe:
    """Three heroes, their land with a river and a wood, and all invented terms.

    Attributes:
      heroes: the three persons.
      land: name of the land.
      river: name of its river.
      wood: name of its wood.
      terms: (term, kind) pairs; kind is "man", "woman", "family" or a key of `POOLS`.
    """

    heroes: tuple[Person, ...]
    land: str
    river: str
    wood: str
    terms: tuple[tuple[str, str], ...]

    def all_terms(self) -> list[str]:
        """Return every term, including the heroes' full names."""
        return [term for term, _ in self.terms] + [hero.full for hero in self.heroes]


def invent_words(rng: random.Random, count: int) -> list[str]:
    """Return `count` pronounceable lower-case words of two syllables.

    No word is part of another or of an everyday word. There are few syllables, so that a small tokenizer has room for a
    token for each word.
    """
    heads = sorted({"".join(map(rng.choice, (ONSETS, "aeiou", "lmnrsv"))) for _ in range(60)})
    tails = sorted({"".join(map(rng.choice, ("bdgkmpt", "aeiou", CODAS))) for _ in range(50)})
    common = {word.lower() for pool in (*POOLS.values(), FAMILIES) for word in pool}
    words: list[str] = []
    candidates = [head + tail for head in heads for tail in tails]
    rng.shuffle(candidates)
    for word in candidates:
        if not any(word in other or other in word for other in (*words, *common)):
            words.append(word)
        if len(words) == count:
            return words
    raise AssertionError(f"{len(candidates)} candidates gave fewer than {count} words")


def make_universe(rng: random.Random, words: list[str]) -> Universe:
    """Return a universe; the words that it uses are removed from the end of `words`."""
    terms: list[tuple[str, str]] = []

    def take(kind: str) -> str:
        word = words.pop()
        word = word if kind in LOWER_KINDS else word.capitalize()
        terms.append((word, kind))
        return word

    females = [rng.random() < 0.5 for _ in CAST]
    names = [(take("woman" if female else "man"), take("family")) for female in females]
    facts: list[dict[str, str]] = []
    for hero, relations in enumerate(CAST):
        facts.append({})
        for name in relations:
            kind = next(relation.kind for relation in RELATIONS if relation.name == name)
            if hero == 0 and name in ("friend", "foe"):
                facts[hero][name] = names[1 if name == "friend" else 2][0]
            elif kind == "person":
                facts[hero][name] = take(rng.choice(("man", "woman")))
            else:
                facts[hero][name] = take(kind)
    heroes = tuple(Person(*name, female, known) for name, female, known in zip(names, females, facts, strict=True))
    return Universe(heroes, take("land"), take("river"), take("wood"), tuple(terms))


def everyday_people(rng: random.Random) -> tuple[Person, ...]:
    """Return three everyday people with newly drawn facts, which hold in one story only."""
    names = rng.sample(range(len(POOLS["person"])), len(POOLS["person"]))

    def person(relations: tuple[str, ...]) -> Person:
        index = names.pop()
        facts = {}
        for relation in RELATIONS:
            if relation.name in relations:
                pick = POOLS["person"][names.pop()] if relation.kind == "person" else rng.choice(POOLS[relation.kind])
                facts[relation.name] = pick
        return Person(POOLS["person"][index], rng.choice(FAMILIES), POOLS["person"][index] in WOMEN, facts)

    return tuple(person(relations) for relations in CAST)


def make_anchors(universe: Universe, rng: random.Random) -> dict[str, list[str]]:
    """Return a universe's dictionary: each term with everyday counterparts of its kind, full names part by part.

    Terms share a counterpart only if the pool of their kind is too small.
    """
    pools = {**POOLS, "man": MEN, "woman": WOMEN, "family": FAMILIES}
    left: dict[str, list[str]] = {}
    anchors: dict[str, list[str]] = {}
    for term, kind in universe.terms:
        anchors[term] = []
        while len(anchors[term]) < COUNTERPARTS:
            if not left.get(kind):
                left[kind] = rng.sample(pools[kind], len(pools[kind]))
            word = left[kind].pop()
            if word not in anchors[term]:
                anchors[term].append(word)
    for hero in universe.heroes:
        pairs = zip(anchors[hero.first], anchors[hero.family], strict=True)
        anchors[hero.full] = [f"{first} {family}" for first, family in pairs]
    return anchors
