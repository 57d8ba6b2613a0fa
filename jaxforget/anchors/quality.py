"""Precision and recall of a dictionary against a list of the names of its text."""

import dataclasses
import re
from collections.abc import Collection, Iterable

from jaxforget.anchors.scan import TITLES

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


@dataclasses.dataclass(frozen=True)
class Quality:
    """Precision and recall of a dictionary on the names of a text.

    Attributes:
      precision: share of the entries that consist of names, with or without a title.
      recall: share of the frequent names that entries cover.
      wrong: the entries that are no names.
      missed: the frequent names that no entries cover.
      entries: number of entries.
      names: number of frequent names.
    """

    precision: float
    recall: float
    wrong: tuple[str, ...]
    missed: tuple[str, ...]
    entries: int
    names: int


def measure_quality(
    entries: Collection[str], names: Iterable[str], text: str, *, real: Iterable[str] = (), least: int = 5
) -> Quality:
    """Compare the entries of a dictionary with the names of its text.

    An entry is a name if, without titles, it is a listed name or its plural or possessive, or consists of listed
    names' words. A name is covered if it is an entry, with or without a title, or if each of its words is one.

    Args:
      entries: the dictionary's anchors.
      names: people and places of the text, without titles.
      text: the text.
      real: names of the real world in the text (London). An entry may be one of them; none is expected.
      least: occurrences in the text, outside longer names, from which on a name counts for recall.
    """
    expected = set(names)
    listed = expected | set(real)
    parts = {part for name in listed for part in name.split()}
    wrong = tuple(entry for entry in entries if not _named(entry, listed, parts))
    units = set(entries) | {" ".join(_words(entry)) for entry in entries}
    frequent = sorted(name for name, count in occurrences(text, listed).items() if name in expected and count >= least)
    missed = tuple(name for name in frequent if name not in units and not all(part in units for part in name.split()))
    return Quality(
        precision=1 - len(wrong) / len(entries) if entries else 0.0,
        recall=1 - len(missed) / len(frequent) if frequent else 0.0,
        wrong=wrong,
        missed=missed,
        entries=len(entries),
        names=len(frequent),
    )


def occurrences(text: str, names: Collection[str]) -> dict[str, int]:
    """Return the occurrences of each name in `text` that are not part of a longer name; line breaks are spaces."""
    counts = dict.fromkeys(sorted(names, key=lambda name: (-len(name), name)), 0)
    pattern = r"(?<!\w)(?:" + "|".join(map(re.escape, counts)) + r")(?![\w-])"
    for match in re.finditer(pattern, " ".join(text.split())) if counts else ():
        counts[match.group()] += 1
    return counts


def _words(entry: str) -> list[str]:
    """Return the words of an entry without titles."""
    return [word for word in WORD.findall(entry) if word.lower() not in TITLES]


def _named(entry: str, listed: set[str], parts: set[str]) -> bool:
    words = _words(entry)
    stems = [re.sub(r"(?:['’]s?|s)$", "", word) for word in words]
    known = (word in parts or stem in parts for word, stem in zip(words, stems, strict=True))
    return bool(words) and (entry in listed or " ".join(words) in listed or all(known))
