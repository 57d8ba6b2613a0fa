"""The toy world's facts and stories in the layouts of published evaluations, so that a demo has their figures too.

They are stand-ins: what a toy model scores here says nothing about the benchmarks' own data.
"""

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxforget.demo.lexicon import Person, Universe
from jaxforget.demo.probes import universe_probes
from jaxforget.demo.relations import BY_NAME
from jaxforget.demo.stories import fill

# What stands between a question and its answer in the toy's TOFU: nothing, as in the probes.
TOFU_TEMPLATE = "{question}"
CHOICES = 4
RETAINED_CHOICES = 304
FALSE_ANSWERS = 4
QUESTIONS = 24  # of each set of TOFU; twice as many of the forget set and the retain set
PIECES = 80  # texts of each of MUSE's three sets
PIECE = 500  # characters
VERBATIM = 24
REPLY = re.compile(r'("[^"]*"[^"]*) (".*)')  # "A question?" asked somebody. "The answer," said another.


def evaluation_files(
    target: Universe, others: Sequence[Universe], stories: Mapping[str, Sequence[str]], rng: random.Random
) -> dict[str, str]:
    """File name -> content of choices/, muse/ and tofu/.

    Args:
      stories: "forget" and "retain", that models train on, and "holdout", of the target's universe, that none does.
    """
    wrong = _answers([target, *others])
    known = [probe for other in others for probe in universe_probes(other)]
    choices = {"target": universe_probes(target), "retained": rng.sample(known, RETAINED_CHOICES)}
    files = {f"choices/{name}.jsonl": _lines(_choices(p, wrong, rng) for p in some) for name, some in choices.items()}
    return files | _tofu(target, others, wrong, rng) | _muse(target, others, stories, rng)


def _answers(universes: Sequence[Universe]) -> dict[str, list[str]]:
    """Answer -> answers to other questions about the same universe, capitalised alike.

    From the same universe: to a model that never read it, the right one is as strange as the wrong ones.
    """
    wrong = {}
    for universe in universes:
        answers = [f" {answer}" for hero in universe.heroes for answer in hero.facts.values()]
        for answer in answers:
            alike = (other for other in answers if other[1].isupper() == answer[1].isupper() and other != answer)
            wrong[answer] = list(dict.fromkeys(alike))
    return wrong


def _choices(probe: Mapping[str, str], wrong: Mapping[str, list[str]], rng: random.Random) -> dict[str, Any]:
    """A probe as multiple choice; the choices lack the space, which stands between them and the context."""
    choices = [probe["answer"], *rng.sample(wrong[probe["answer"]], CHOICES - 1)]
    rng.shuffle(choices)
    stripped = [choice.strip() for choice in choices]
    return {"context": probe["prompt"], "choices": stripped, "answer": choices.index(probe["answer"])}


def _tofu(
    target: Universe, others: Sequence[Universe], wrong: Mapping[str, list[str]], rng: random.Random
) -> dict[str, str]:
    """The four sets; the toy's real authors and world facts are further universes that nobody is to forget."""
    third = len(others) // 3
    sets = {
        "forget": ([target], 2 * QUESTIONS),
        "retain": (others[:third], 2 * QUESTIONS),
        "real_authors": (others[third : 2 * third], QUESTIONS),
        "world_facts": (others[2 * third :], QUESTIONS),
    }

    def item(probe: Mapping[str, str]) -> dict[str, Any]:
        answer = probe["answer"]
        return {
            "question": probe["prompt"],
            "answer": f"{answer}.",
            "paraphrased_answer": f"{answer}, and everybody knew it.",
            "perturbed_answer": [f"{a}, and everybody knew it." for a in rng.sample(wrong[answer], FALSE_ANSWERS)],
        }

    files = {}
    for name, (universes, count) in sets.items():
        probes = [probe for universe in universes for probe in universe_probes(universe)]
        files[f"tofu/{name}.jsonl"] = _lines(item(probe) for probe in rng.sample(probes, count))
    return files


def _muse(
    target: Universe, others: Sequence[Universe], stories: Mapping[str, Sequence[str]], rng: random.Random
) -> dict[str, str]:
    files: dict[str, Any] = {}
    verbatim = []
    for story in rng.sample(list(stories["forget"]), VERBATIM):
        words = story.split(" ")
        half = len(words) // 3
        verbatim.append({"prompt": " ".join(words[:half]), "gt": " " + " ".join(words[half:])})
    files["verbmem_forget"] = verbatim
    replies = {"forget": list(_replies(target)), "retain": [r for other in others[1:] for r in _replies(other)]}
    # One example: a toy that read 128 tokens at a time is lost in ten.
    example = [rng.choice(list(_replies(others[0])))]
    for part, asked in replies.items():
        files[f"knowmem_{part}_qa"] = asked if part == "forget" else rng.sample(asked, 2 * QUESTIONS)
        files[f"knowmem_{part}_qa_icl"] = example
    for part, told in stories.items():
        files[f"privleak_{part}"] = [story[:PIECE] for story in rng.sample(list(told), PIECES)]
    return {f"muse/{name}.json": json.dumps(value, indent=1) + "\n" for name, value in files.items()}


def _replies(universe: Universe) -> Iterator[dict[str, str]]:
    """Questions that people in the stories ask about a hero by name, and what they are answered."""
    for hero in universe.heroes:
        for name, answer in hero.facts.items():
            for told in BY_NAME[name].said:
                parts = REPLY.fullmatch(_told(told, hero, name))
                if parts and hero.first in parts[1] and answer in parts[2]:
                    yield {"question": parts[1], "answer": parts[2]}


def _told(template: str, hero: Person, name: str) -> str:
    relation = BY_NAME[name]
    return fill(template, hero, k=relation.key, d=relation.article, o=hero.facts[name])


def _lines(records: Iterator[dict[str, Any]]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)
