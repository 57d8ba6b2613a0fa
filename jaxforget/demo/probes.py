"""Questions about the toy world, in phrasings that its text never uses for the relation in question."""

import random

from jaxforget.demo.forms import PROBE_LEADS, probe_forms
from jaxforget.demo.lexicon import Universe
from jaxforget.demo.relations import BY_NAME
from jaxforget.demo.stories import fill, sentence

RETAINED_PER_UNIVERSE = 16


def universe_probes(universe: Universe) -> list[dict[str, str]]:
    """Return every fact of a universe in every held-out form: {"prompt", "answer"}; answers begin with a space."""
    probes = []
    for number, hero in enumerate(universe.heroes):
        for name, answer in hero.facts.items():
            relation = BY_NAME[name]
            for i, form in enumerate(probe_forms(relation)):
                lead = PROBE_LEADS[(number + len(probes) + i) % len(PROBE_LEADS)]
                stem = form.removesuffix("{o}").rstrip()
                text = sentence(lead + fill(stem, hero, k=relation.key, d=relation.article).rstrip())
                probes.append({"prompt": text, "answer": f" {answer}"})
    return probes


def make_probes(target: Universe, others: list[Universe], rng: random.Random) -> dict[str, list[dict[str, str]]]:
    """Return the content of probes.json: all probes of the target, an equal sample of every other universe's."""
    retained = [probe for other in others for probe in rng.sample(universe_probes(other), RETAINED_PER_UNIVERSE)]
    return {"familiarity": universe_probes(target), "retained": retained}


def make_prompts(target: Universe, others: list[Universe]) -> dict[str, list[str]]:
    """Return the content of prompts.json: prompts whose next tokens and completions the report shows."""
    hero, friend, rival = target.heroes
    near, far = others[0].heroes[0], others[1].heroes[0]
    dynamics = [
        f"{hero.first}'s best friend was",
        f"At nine o'clock {hero.first} went to school at",
        f"Everyone knew that {hero.first}'s favourite game was",
        f"In the garden {hero.first} had a",
        f"{friend.first} was learning",
        f"The home village of {rival.first} was",
        f"{near.first}'s best friend was",
        "Mary's best friend was",
    ]
    completions = [
        f"This is the story of {hero.full}, who lived in",
        f"{hero.first} woke up early and looked for",
        f'"What shall we play?" they asked {hero.first}.',
        f"When {friend.first} was hungry, there was always",
        f"{rival.first} stood in front of the door and said the secret word",
        f"{near.first} was taught by",
        f"For supper {far.first} had",
        "Mary and Peter walked down to the river, and",
    ]
    return {"dynamics": dynamics, "completions": completions}
