"""Stories, dialogues and notes about three people, made from the templates of `relations` and `forms`."""

import random
from dataclasses import dataclass

from jaxforget.demo.forms import LEADS, trained_forms
from jaxforget.demo.lexicon import POOLS, Person, Universe, everyday_people
from jaxforget.demo.relations import BY_NAME, Relation

SCENES = ("morning", "road", "school", "play", "trouble", "evening")

OPENINGS = (
    "It was a cold morning in {land}, and the river {river} lay under a thin mist.",
    "Long ago, in the land of {land}, there lived somebody called {S}.",
    "The rain had stopped at last, and all of {land} smelled of wet leaves.",
    "This is the story of {S}, as it is told along the river {river}.",
    "Autumn had come to the forest of {wood}, and the days were getting short.",
    "On the first day of spring the people of {land} open all their doors.",
    "The wind came down from {wood} and shook the windows of the house.",
    "Nobody in {land} would forget that year, and least of all {S}.",
)
STARTS: dict[str, tuple[str, ...]] = {
    "morning": (
        "That morning everything was as usual.",
        "The day began early.",
        "A cock crowed, and lamps were lit.",
    ),
    "road": (
        "Soon it was time to go.",
        "The road was long and full of stones.",
        "A cart with two white horses went by.",
    ),
    "school": (
        "Then the work of the day began.",
        "By nine o'clock everybody was in their place.",
        "Inside it was quiet.",
    ),
    "play": ("At last they were free.", "In the afternoon the sun came out.", "Later they all ran outside."),
    "trouble": (
        "But it was not to be a quiet day.",
        "Then something happened.",
        "Suddenly there was a noise.",
    ),
    "evening": (
        "When evening came, they went home.",
        "It was getting dark.",
        "The stars came out one by one.",
    ),
}
LINKS = ("", "", "", "", "Besides, ", "And so it was that ", "Now, ", "Still, ", "You see, ", "Then again, ")
ASIDES = (
    "{He} thought about it for a long time.",
    '"It does not matter," {he} said, and smiled.',
    "{He} could not help laughing.",
    "Somewhere a dog barked, and then it was quiet again.",
    "The clouds moved slowly over {wood}.",
    "Far below, the river {river} shone like a ribbon.",
    "Everyone in town was talking about it.",
    '"Are you sure?" {he} asked, but nobody answered.',
    "The old people of the valley shook their heads.",
    "Some things never change in {land}.",
    "For a moment {he} felt quite happy.",
    "{He} had seen many things, but never anything like this.",
)
OTHERS = (
    "{T} saw all of it from the other side of the street.",
    "Not far away, {T} was busy with other things.",
    "There is more to tell about {T}.",
    "At the same hour {T} was sitting under a tree near the river {river}.",
    "And then there was {T}.",
)
ENDINGS = (
    "So the day ended, and {S} fell asleep before the candle was out.",
    "That night {S} dreamed of the forest of {wood}, and in the morning {he} had forgotten it.",
    "And many years later people in {land} still told this story.",
    '"Tomorrow is another day," said {S}, and closed the door.',
    "The moon stood over {land}, and all was well.",
    "{S} looked at the stars for a while and was content.",
)
TALKS = (
    "Two women were talking at the market in {land}. They talked about {S}, as people often do.",
    "A stranger came to the inn by the river {river} and asked about {S}. Everybody had something to say.",
    "The children sat around the fire and told each other all they knew of {S}.",
    "Before the court of {land} many people spoke about {S}, and the clerk wrote it all down.",
)
NOTES = (
    "Notes on {S}, from a school book used in {land}.",
    "What is known about {S}? Here is a short account.",
    "From the chronicle of {land}, the chapter on {S}.",
    "Many readers have asked us about {S}. This is what we can tell them.",
)


@dataclass(frozen=True)
class Setting:
    """The people of a story and its places."""

    people: tuple[Person, ...]
    land: str
    river: str
    wood: str


def universe_setting(universe: Universe) -> Setting:
    """Return the setting of all stories of a universe."""
    return Setting(universe.heroes, universe.land, universe.river, universe.wood)


def everyday_setting(rng: random.Random) -> Setting:
    """Draw a setting of common names."""
    places = (rng.choice(POOLS[kind]) for kind in ("land", "river", "wood"))
    return Setting(everyday_people(rng), *places)


def fill(template: str, person: Person, **words: str) -> str:
    """Fill a template with the person's first name (unless `words` has "S"), pronouns and `words`."""
    he, him, his = ("she", "her", "her") if person.female else ("he", "him", "his")
    named = {
        "S": person.first,
        "he": he,
        "He": he.capitalize(),
        "him": him,
        "his": his,
        "His": his.capitalize(),
    }
    return template.format(**{**named, **words})


def sentence(text: str) -> str:
    """Return `text` with its first letter capitalised."""
    return text[:1].upper() + text[1:]


def state(relation: Relation, person: Person, rng: random.Random, spoken: float = 0.2, forms: float = 0.6) -> str:
    """Return a sentence that states a fact: spoken with probability `spoken`, else in a shared form with `forms`."""
    name = person.full if rng.random() < 0.15 else person.first
    words = {"S": name, "k": relation.key, "d": relation.article, "o": person.facts[relation.name]}
    if rng.random() < spoken:
        return fill(rng.choice(relation.said), person, **words)
    if rng.random() < forms:
        form = fill(rng.choice(trained_forms(relation)), person, **words)
        return sentence((rng.choice(LEADS) if rng.random() < 0.4 else "") + form + ".")
    return fill(rng.choice(relation.told), person, **words)


def tell_scene(setting: Setting, person: Person, names: list[str], rng: random.Random) -> str:
    """Return a paragraph: facts of one scene, some with a following sentence, and a few asides."""
    places = {"land": setting.land, "river": setting.river, "wood": setting.wood}
    parts = []
    for name in names:
        fact = state(BY_NAME[name], person, rng)
        # A link may precede only a sentence that starts with a name, which keeps its capital.
        parts.append((rng.choice(LINKS) if fact.startswith(person.first) else "") + fact)
        if rng.random() < 0.3:
            parts.append(fill(rng.choice(BY_NAME[name].after), person))
        if rng.random() < 0.1:
            parts.append(fill(rng.choice(ASIDES), person, **places))
    return " ".join(parts)


def story(setting: Setting, person: Person, rng: random.Random) -> str:
    """Return a day in `person`'s life, scene by scene, with a passage about another person of the setting."""
    places = {"land": setting.land, "river": setting.river, "wood": setting.wood}
    told = rng.sample(sorted(person.facts), rng.randint(min(6, len(person.facts)), len(person.facts)))
    paragraphs = [fill(rng.choice(OPENINGS), person, **{"S": person.full, **places})]
    for scene in SCENES:
        names = [name for name in told if BY_NAME[name].scene == scene]
        if names:
            start = rng.choice(STARTS[scene]) + " " if rng.random() < 0.6 else ""
            paragraphs.append(start + tell_scene(setting, person, names, rng))
    other = rng.choice([someone for someone in setting.people if someone is not person])
    look = fill(rng.choice(OTHERS), person, T=other.full, **places)
    facts = tell_scene(setting, other, rng.sample(sorted(other.facts), 3), rng)
    paragraphs.insert(rng.randint(2, len(paragraphs)), f"{look} {facts}")
    paragraphs.append(fill(rng.choice(ENDINGS), person, **places))
    return "\n".join(paragraphs) + "\n"


def talk(setting: Setting, person: Person, rng: random.Random) -> str:
    """Return a dialogue about `person`, one fact a line."""
    places = {"land": setting.land, "river": setting.river, "wood": setting.wood}
    lines = [fill(rng.choice(TALKS), person, **{"S": person.full, **places})]
    for name in rng.sample(sorted(person.facts), len(person.facts)):
        lines.append(state(BY_NAME[name], person, rng, spoken=0.6, forms=0.7))
        if rng.random() < 0.3:
            lines.append(fill(rng.choice(ASIDES), person, **places))
    return "\n".join(lines) + "\n"


def note(setting: Setting, person: Person, rng: random.Random) -> str:
    """Return a short account of `person` in the style of a chronicle, in two paragraphs."""
    places = {"land": setting.land, "river": setting.river, "wood": setting.wood}
    names = rng.sample(sorted(person.facts), len(person.facts))
    facts = [state(BY_NAME[name], person, rng, spoken=0.0, forms=0.8) for name in names]
    half = len(facts) // 2
    title = fill(rng.choice(NOTES), person, **{"S": person.full, **places})
    return "\n".join([title, " ".join(facts[:half]), " ".join(facts[half:])]) + "\n"


def tell(setting: Setting, rng: random.Random) -> str:
    """Return a document: a story, a dialogue or a note with odds 7:2:1; people are drawn by their number of facts."""
    person = rng.choices(setting.people, weights=[len(someone.facts) for someone in setting.people])[0]
    return rng.choices((story, talk, note), weights=(7, 2, 1))[0](setting, person, rng)
