"""Contexts of the candidates: a sample of their occurrences, and measures of the words around them."""

import dataclasses
import re
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from jaxforget.anchors.general import General
from jaxforget.anchors.scan import TITLES, WORD, bare, sentences
from jaxforget.corpus.text import Document

# Occurrences are compared by NEAR words on each side; those with fewer than TOLD words in all are not compared.
NEAR, TOLD = 2, 3
REACH = 6  # words of a context on each side of the expression
LONGEST = 400  # characters of a context's sentence, around the expression
_WORDS = "i you he she it we they who to not had has have would could should must might will can"
_SUBJECTS = frozenset(_WORDS.split())
EXAMPLES, SEARCHED = 5, 400  # sentences shown, chosen from the first occurrences
SIDE = 160  # maximal characters shown on each side
_SENTENCE_END = re.compile(r"[.!?…][\"”’')\]]*\s|\n\s*\n")
_ENDS = frozenset('.,;:!?…)—–"”')


@dataclasses.dataclass(frozen=True)
class Context:
    """One occurrence of an expression.

    Attributes:
      sentence: the sentence around it, cut at both ends if it is long.
      start, end: character range of the expression in `sentence`.
      before, after: up to `REACH` words on each side in lower case, nearest first; they may be of other sentences.
      gap: the characters between the expression and the next word.
    """

    sentence: str
    start: int
    end: int
    before: tuple[str, ...]
    after: tuple[str, ...]
    gap: str


def find_contexts(
    documents: Iterable[Document], counts: Mapping[str, int], *, keep: int = 24
) -> dict[str, list[Context]]:
    """Return about `keep` occurrences of every expression, spread evenly over the text.

    Matching is case-sensitive and ignores possessive endings.

    Args:
      documents: the text.
      counts: expression -> its expected number of occurrences.
      keep: contexts of an expression; at most twice as many are returned.
    """
    heads: dict[str, list[tuple[str, ...]]] = {}
    for text in counts:
        words = tuple(match.group() for match in WORD.finditer(text))
        if words:
            heads.setdefault(words[0], []).append(words)
    names = {tuple(match.group() for match in WORD.finditer(text)): text for text in counts}
    found: dict[str, list[Context]] = {text: [] for text in counts}
    met = dict.fromkeys(counts, 0)
    for document in documents:
        text = document.text
        matches = list(WORD.finditer(text))
        surface = [match.group() for match in matches]
        bounds: list[tuple[int, int]] | None = None
        for index, word in enumerate(surface):
            for expression in heads.get(bare(word), ()) if bare(word) in heads else heads.get(word, ()):
                size = len(expression)
                there = surface[index : index + size]
                if there[:-1] != list(expression[:-1]) or not there or bare(there[-1]) != bare(expression[-1]):
                    continue
                name = names[expression]
                met[name] += 1
                if (met[name] - 1) % max(1, counts[name] // keep) or len(found[name]) >= 2 * keep:
                    continue
                bounds = list(sentences(text)) if bounds is None else bounds
                found[name].append(_context(text, matches, surface, index, size, bounds))
    return found


def _context(
    text: str, matches: Sequence, surface: Sequence[str], index: int, size: int, bounds: Sequence[tuple[int, int]]
) -> Context:
    begin = matches[index].start()
    last = matches[index + size - 1]
    end = last.end() - (len(surface[index + size - 1]) - len(bare(surface[index + size - 1])))
    number = max(0, bisect_right(bounds, (begin, len(text) + 1)) - 1)
    left, right = bounds[number] if bounds else (0, len(text))
    left, right = max(left, begin - LONGEST // 2), min(max(right, end), end + LONGEST // 2)
    following = matches[index + size].start() if index + size < len(matches) else len(text)
    return Context(
        text[left:right].rstrip(),
        begin - left,
        end - left,
        tuple(word.lower() for word in reversed(surface[max(0, index - REACH) : index])),
        tuple(word.lower() for word in surface[index + size : index + size + REACH]),
        text[end:following],
    )


def noun_share(contexts: Sequence[Context], general: General) -> float:
    """Return the share of occurrences that look like a noun: a phrase ends after them, no subject precedes them."""
    if not contexts:
        return 0.0
    good = 0
    for one in contexts:
        ended = bool(set(one.gap) & _ENDS) or not one.after or general.frequency(one.after[0]) > 5e-4
        good += ended and not (one.before and one.before[0] in _SUBJECTS)
    return good / len(contexts)


def variety(contexts: Sequence[Context]) -> float:
    """Return the share of occurrences that repeat no other one: near 1 in prose, low for a refrain or a formula.

    Two occurrences repeat each other if the same `NEAR` words of the sentence are on each side.
    """
    kinds, short = set(), 0
    for one in contexts:
        before, after = WORD.findall(one.sentence[: one.start])[-NEAR:], WORD.findall(one.sentence[one.end :])[:NEAR]
        if len(before) + len(after) < TOLD:
            short += 1
        else:
            kinds.add((tuple(map(str.lower, before)), tuple(map(str.lower, after))))
    return (len(kinds) + short) / len(contexts) if contexts else 1.0


def example(contexts: Sequence[Context]) -> str:
    """Return the sentence whose length is nearest to 110 characters, on one line; "" if there are no contexts."""
    if not contexts:
        return ""
    best = min(contexts, key=lambda one: abs(len(one.sentence) - 110))
    return " ".join(best.sentence.split())


def sentences_with(documents: Sequence[Document], anchor: str, count: int = EXAMPLES) -> list[tuple[str, str, str]]:
    """Return up to `count` sentences of an anchor, spread over the text, as (before, anchor, after)."""
    pattern = re.compile(rf"(?<!\w){re.escape(anchor)}(?!\w)")
    places = []
    for document in documents:
        for match in pattern.finditer(document.text):
            places.append((document.text, match.start(), match.end()))
            if len(places) == SEARCHED:
                break
        if len(places) == SEARCHED:
            break
    step = max(1, len(places) // count)
    return [_cut(*place) for place in places[::step][:count]]


def _cut(text: str, start: int, end: int) -> tuple[str, str, str]:
    left = max(0, start - SIDE)
    before = text[left:start]
    ends = [match.end() for match in _SENTENCE_END.finditer(before) if not _is_title(before[: match.start()])]
    if ends:
        before = before[ends[-1] :].lstrip()
    elif left:
        before = "…" + before.partition(" ")[2]
    after = text[end : end + SIDE]
    stop = _SENTENCE_END.search(after)
    if stop:
        after = after[: stop.end()].rstrip()
    elif end + SIDE < len(text):
        after = after.rpartition(" ")[0] + "…"
    return _flat(before), text[start:end], _flat(after)


def _is_title(before: str) -> bool:
    word = re.search(r"[^\W\d_]+$", before)
    return word is not None and word.group().lower() in TITLES


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)
