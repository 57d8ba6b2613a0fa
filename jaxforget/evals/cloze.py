"""Cloze probes: places of a text where a name occurs that the text just before it does not hold."""

import bisect
import random
import re
from collections.abc import Iterable, Sequence

from jaxforget.evals.probes import Probe

WORD = re.compile(r"\S+")


def cloze_probes(
    text: str,
    names: Iterable[str],
    *,
    context: int = 120,
    per_name: int = 4,
    limit: int = 60,
    seed: int = 0,
) -> list[Probe]:
    """Return probes whose prompt is the text before a name, and whose answer is the name.

    None of the name's words occurs in the prompt, so that a model cannot copy it from there. The prompt has exactly
    `context` words; names that occur earlier in the text are not asked.

    Args:
      text: the text.
      names: the names; of overlapping ones the longest is asked. A title that stays in the prompt, as in "Mr.
        Knightley", is not part of its name.
      context: words of a prompt.
      per_name: probes of one name at most, drawn at random.
      limit: probes at most, drawn at random.
      seed: of the draws.

    Returns:
      The probes in the order of the text.
    """
    ordered = sorted(set(names), key=len, reverse=True)
    if not ordered:
        return []
    pattern = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, ordered)) + r")(?![\w-])")
    starts = [word.start() for word in WORD.finditer(text)]
    found: dict[str, list[tuple[int, Probe]]] = {}
    for match in pattern.finditer(text):
        prompt = _words_before(text, starts, match.start(), context)
        words = set(re.findall(r"\w+", match[0]))
        # The answer takes the space before it, as probes do; a name after a quotation mark or a dash has none.
        if prompt is None or text[match.start() - 1] != " " or words & set(re.findall(r"\w+", prompt)):
            continue
        found.setdefault(match[0], []).append((match.start(), Probe(prompt, f" {match[0]}")))
    rng = random.Random(seed)
    chosen = [place for places in found.values() for place in _draw(places, per_name, rng)]
    return [probe for _, probe in sorted(_draw(chosen, limit, rng), key=lambda place: place[0])]


def _words_before(text: str, starts: Sequence[int], place: int, count: int) -> str | None:
    """Return the last `count` words before `place`, or None if there are fewer."""
    number = bisect.bisect_left(starts, place)
    return text[starts[number - count] : place].rstrip(" ") if number >= count else None


def _draw(items: list, count: int, rng: random.Random) -> list:
    return rng.sample(items, count) if len(items) > count else items
