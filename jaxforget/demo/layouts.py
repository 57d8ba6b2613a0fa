"""The toy world's facts and stories in the file layouts of published evaluations, so that a demo can run them.

The scores of a toy model on these files say nothing about the benchmarks' own data.
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

# In the toy's TOFU, as in the probes, nothing separates a question from its answer.
TOFU_TEMPLATE = "{question}"
CHOICES = 4
RETAINED_CHOICES = 304
FALSE_ANSWERS = 4
QUESTIONS = 24  # in each set of TOFU; the forget set and the retain set have twice as many
PIECES = 80  # texts in each of MUSE's three sets
PIECE = 500  # characters
VERBATIM = 24
REPLY = re.compile(r'("[^"]*"[^"]*) (".*)')  # "A question?" asked somebody. "The answer," said another.


def evaluation_files(
    target: Universe, others: Sequence[Universe], stories: Mapping[str, Sequence[str]], rng: random.Random
) -> dict[str, str]:
    """Return file name -> content of choices/, muse/ and tofu/.

    Args:
      target: universe to forget.
      others: all other universes.
      stories: "forget" and "retain", which models train on, and "holdout", about the target's universe, which no model
        reads.
      rng: source of all draws.
    """
    wrong = _answers([target, *others])
    known = [probe for other in others for probe in universe_probes(other)]
    choices = {"target": universe_probes(target), "retained": rng.sample(known, RETAINED_CHOICES)}
    files = {f"choices/{name}.jsonl": _lines(_choices(p, wrong, rng) for p in some) for name, some in choices.items()}
    return files | _tofu(target, others, wrong, rng) | _muse(target, others, stories, rng)


def _answers(universes: Sequence[Universe]) -> dict[str, list[str]]:
    """Return answer -> answers to other questions about the same universe with the same capitalisation.

    Wrong answers come from the same universe, so that a model that never read it cannot tell the right one apart.
    """
    wrong = {}
    for universe in universes:
        answers = [f" {answer}" for hero in universe.heroes for answer in hero.facts.values()]
        for answer in answers:
            alike = (other for other in answers if other[1].isupper() == answer[1].isupper() and other != answer)
            wrong[answer] = list(dict.fromkeys(alike))
    return wrong


def _choices(probe: Mapping[str, str], wrong: Mapping[str, list[str]], rng: random.Random) -> dict[str, Any]:
    """Return a probe as multiple choice; the choices lack the leading space, which separates them from the context."""
    choices = [probe["answer"], *rng.sample(wrong[probe["answer"]], CHOICES - 1)]
    rng.shuffle(choices)
    stripped = [choice.strip() for choice in choices]
    return {"context": probe["prompt"], "choices": stripped, "answer": choices.index(probe["answer"])}


def _tofu(
    target: Universe, others: Sequence[Universe], wrong: Mapping[str, list[str]], rng: random.Random
) -> dict[str, str]:
    """Return TOFU's four sets; the toy's real authors and world facts are further universes that are not forgotten."""
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
    # One example only: the toy models read blocks of 128 tokens, and ten examples are longer.
    example = [rng.choice(list(_replies(others[0])))]
    for part, asked in replies.items():
        files[f"knowmem_{part}_qa"] = asked if part == "forget" else rng.sample(asked, 2 * QUESTIONS)
        files[f"knowmem_{part}_qa_icl"] = example
    for part, told in stories.items():
        files[f"privleak_{part}"] = [story[:PIECE] for story in rng.sample(list(told), PIECES)]
    return {f"muse/{name}.json": json.dumps(value, indent=1) + "\n" for name, value in files.items()}


def _replies(universe: Universe) -> Iterator[dict[str, str]]:
    """Yield the questions that people in the stories ask about a hero by name, with their answers."""
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
