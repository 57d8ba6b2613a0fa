"""The parts of names, and kinds as base itself sees them."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jaxforget.anchors.candidates import Candidate
from jaxforget.anchors.contexts import Context
from jaxforget.anchors.counterparts import part_of, pool, stems, written
from jaxforget.anchors.kinds import KINDS, Nature, judge, names_of, sorts_of
from jaxforget.anchors.scan import LINKS, TITLES

COMMON_NOUNS = ("peoples", "roles")  # what the articles before a capital tell, and base need not be asked
TITLED = 0.4  # share of places behind Mr, Mrs, Professor from which a name is a family's
TYPICAL = 3  # entries of a list that stand for it
PLACES = 3  # of the expression's own sentences that base reads with each of them
SCALE, WEIGHT = 3.0, 2.0  # nats that make a difference, and how much they weigh beside the words around


def name_parts(candidates: Sequence[Candidate], contexts: Mapping[str, Sequence[Context]]) -> tuple[set[str], set[str]]:
    """First names and family names among the candidates: the parts of full names, and what stands behind titles."""
    singles = {one.text for one in candidates if " " not in one.text and one.name}
    firsts: set[str] = set()
    families: set[str] = set()
    for one in candidates:
        words = one.text.split()
        if words[0].lower() in TITLES and len(words) > 2:
            words = words[1:]
        if len(words) < 2 or any(word in LINKS for word in words) or not all(word in singles for word in words):
            continue
        nature = judge(one, contexts[one.text])
        if nature.kind == "person":
            firsts |= set(words[:-1])
            families.add(words[-1])
    # Two capitals of which the first is an everyday first name; and whoever has a plural, as "the Churchills" do.
    given = names_of("people_male") | names_of("people_female")
    pairs = [one.text.split() for one in candidates if len(one.text.split()) == 2]
    families |= {last for first, last in pairs if first in given and last in singles and last not in firsts}
    families |= set(stems(singles).values()) - firsts
    for text in singles - firsts:
        behind = sum(bool(one.before) and one.before[0] in TITLES for one in contexts[text])
        if behind > TITLED * max(1, len(contexts[text])):
            families.add(text)
    return firsts, families


def with_models(nature: Nature, text: str, contexts: Sequence[Context], models: Any) -> Nature:
    """The nature as base sees it: typical entries of every list put in the expression's place, read by base.

    `models` is a `jaxforget.anchors.extract.Judge`.
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
