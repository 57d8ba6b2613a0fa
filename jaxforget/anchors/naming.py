"""First and family names, and the kind of an expression as base judges it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxforget.anchors.candidates import Candidate
from jaxforget.anchors.contexts import Context
from jaxforget.anchors.counterparts import FAMILY_TITLES, part_of, pool, stems, written
from jaxforget.anchors.general import given_names
from jaxforget.anchors.kinds import FEMALE_TITLES, KINDS, Nature, judge, sorts_of
from jaxforget.anchors.scan import LINKS, TITLES

COMMON_NOUNS = ("peoples", "roles")  # lists that the article before a capital decides, without base
TITLED = 0.4  # share of occurrences after Mr, Mrs or Professor from which a name is a family name
TYPICAL = 3  # entries that represent a list
PLACES = 3  # contexts in which base reads each of those entries
SCALE, WEIGHT = 3.0, 2.0  # scale of a difference of log-probabilities in nats, and its weight beside the contexts


def name_parts(candidates: Sequence[Candidate], contexts: Mapping[str, Sequence[Context]]) -> tuple[set[str], set[str]]:
    """Return the first names and the family names among the candidates.

    They are the parts of full names, names after titles, and names that also occur in the plural.

    Args:
      candidates: all candidates.
      contexts: expression -> its occurrences.
    """
    singles = {one.text for one in candidates if " " not in one.text and one.name}
    firsts: set[str] = set()
    families: set[str] = set()
    for one in candidates:
        words = one.text.split()
        if words[0].lower() in TITLES and len(words) > 2:
            words = words[1:]
        if any(link in LINKS - {"of", "the"} for link in words) and words[-1] in singles:
            families.add(words[-1])  # de Bourgh
        if len(words) < 2 or any(word in LINKS for word in words) or not all(word in singles for word in words):
            continue
        nature = judge(one, contexts[one.text])
        if nature.kind == "person":
            firsts |= set(words[:-1])
            families.add(words[-1])
    # The word after a common first name is a family name, and so is a name with a plural ("the Churchills").
    given = given_names()
    pairs = [one.text.split() for one in candidates if len(one.text.split()) == 2]
    families |= {last for first, last in pairs if first in given and last in singles and last not in firsts}
    families |= set(stems(singles).values()) - firsts
    for text in singles - firsts:
        behind = sum(bool(one.before) and _before_family(one.before[0], text) for one in contexts[text])
        if behind > TITLED * max(1, len(contexts[text])):
            families.add(text)
    return firsts, families


def _before_family(title: str, name: str) -> bool:
    """Return True if `name` is a family name after `title`: Mr Martin and Lady Russell, but not Lady Catherine."""
    if title in FAMILY_TITLES or title not in TITLES:
        return title in FAMILY_TITLES
    return name not in given_names("female" if title in FEMALE_TITLES else "male")


def with_models(nature: Nature, text: str, contexts: Sequence[Context], models: Any) -> Nature:
    """Return `nature` with the kind and list that base prefers.

    Base reads the expression's contexts with typical entries of every list in its place. The list with the highest
    mean log-probability, combined with the evidence of the contexts, wins.

    Args:
      nature: the nature as the contexts show it.
      text: the expression.
      contexts: its occurrences; without any `nature` is returned as it is.
      models: a `jaxforget.anchors.extract.Judge`.
    """
    if not contexts or nature.sort in COMMON_NOUNS:
        return nature
    last = text.split()[-1]
    capital = last[0].isupper()
    sorts = {s: kind for kind in KINDS for s in sorts_of(kind, last) if not (capital and s in COMMON_NOUNS)}
    options: dict[str, list[str]] = {}
    for sort, kind in sorts.items():
        part = part_of(dataclasses.replace(nature, sort=sort, kind=kind), text)
        options[sort] = [written(entry, part) for entry in models.familiar(pool(sort), TYPICAL)]
    flat = [option for written_ones in options.values() for option in written_ones]
    liked = dict(zip(flat, models.likelihoods(contexts[:PLACES], flat), strict=True))
    fit = {sort: sum(liked[option] for option in options[sort]) / len(options[sort]) for sort in sorts}
    middle = sum(fit.values()) / len(fit)
    score = {
        sort: nature.scores[kind]
        + WEIGHT * math.tanh((fit[sort] - middle) / SCALE)
        + (0.3 if sort == nature.sort else 0.0)
        for sort, kind in sorts.items()
    }
    sort = max(score, key=lambda sort: score[sort])
    return dataclasses.replace(nature, kind=sorts[sort], sort=sort)
