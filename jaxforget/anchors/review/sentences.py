"""An anchor in its sentences, found when it is looked at."""

import re
from collections.abc import Sequence

from jaxforget.anchors.scan import TITLES
from jaxforget.corpus.text import Document

SHOWN, SEARCHED = 5, 400  # sentences shown, of the first so many occurrences
AROUND = 160  # characters on each side at most
_END = re.compile(r"[.!?…][\"”’')\]]*\s|\n\s*\n")


def sentences_with(documents: Sequence[Document], anchor: str, count: int = SHOWN) -> list[tuple[str, str, str]]:
    """Up to `count` of an anchor's sentences, spread over the text: what stands before it, itself, what follows."""
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
    left = max(0, start - AROUND)
    before = text[left:start]
    ends = [match.end() for match in _END.finditer(before) if not _is_title(before[: match.start()])]
    if ends:
        before = before[ends[-1] :].lstrip()
    elif left:
        before = "…" + before.partition(" ")[2]
    after = text[end : end + AROUND]
    stop = _END.search(after)
    if stop:
        after = after[: stop.end()].rstrip()
    elif end + AROUND < len(text):
        after = after.rpartition(" ")[0] + "…"
    return _flat(before), text[start:end], _flat(after)


def _is_title(before: str) -> bool:
    word = re.search(r"[^\W\d_]+$", before)
    return word is not None and word.group().lower() in TITLES


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)
