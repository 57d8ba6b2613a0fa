"""The anchor dictionary: expressions of the target and their generic counterparts (METHOD.md §3)."""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from jaxforget.errors import UserError
from jaxforget.files import Text, check, read_json, write_json

REMEDY = 'write an anchor as {"anchor": ["generic", ...]}'


_ATOM = re.compile(r"\w+|\s+|[^\w\s]")


class Entry(pydantic.BaseModel, extra="allow"):
    """One value of the file: the generic counterparts, the anchor's kind, and other keys, which are evidence."""

    generic: Annotated[list[Text], pydantic.Field(min_length=1)]
    kind: Text | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _spell_out(cls, value: Any) -> Any:
        """Accept a string, a list or an object whose "generic" is one of them."""
        if isinstance(value, str | list):
            value = {"generic": value}
        if not isinstance(value, dict):
            raise ValueError('must be a string, a list of strings, or an object with "generic"')
        generic = value.get("generic")
        return {**value, "generic": [generic]} if isinstance(generic, str) else value


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Anchors in file order, each with its distinct generic counterparts.

    Attributes:
      entries: anchor -> its generic counterparts, at least one, in the order first seen.
      evidence: anchor -> the other keys of its entry: its kind, by which several translations share counterparts, and
        passages, counts or a verdict, which are not read here.
      dropped: anchor -> why the filter of METHOD.md §3 dropped it.
      notes: one line for every entry that was corrected or that will have no effect.
    """

    entries: Mapping[str, tuple[str, ...]]
    evidence: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path, *, keep_all: bool = False) -> "Anchors":
        """Read `{"anchor": ["generic", …]}` and, unless `keep_all`, applies the filter.

        A value may also be one string, or an object whose "generic" holds the list and whose other keys are
        kept as evidence. A key that the file gives twice keeps the translations of both. Blanks around a key
        or a translation are removed.

        Raises:
          UserError: one line naming the file and the key, when the file is not such a dictionary or is empty.
        """
        path = Path(path)
        united: dict[str, list[str]] = {}
        evidence: dict[str, dict[str, Any]] = {}
        notes = []
        for raw, value in _read_pairs(path):
            key = raw.strip()
            if not key:
                raise UserError(f"{path}: an anchor is empty; remove it or give it a name")
            if key != raw:
                notes.append(f"{key!r}: blanks around the anchor removed")
            check(key, Text, f"{path}: {key!r}", remedy="correct its escapes")
            entry: Entry = check(_plain(value), Entry, f"{path}: {key!r}", remedy=REMEDY)
            generic, rest = [text.strip() for text in entry.generic], entry.model_extra or {}
            rest = rest if entry.kind is None else {"kind": entry.kind, **rest}
            if key in united:
                notes.append(f"{key!r}: given more than once; all its translations are kept")
            united.setdefault(key, []).extend(generic)
            if rest:
                evidence[key] = {**evidence.get(key, {}), **rest}
        if not united:
            raise UserError(f'{path}: no anchors; give at least one as {{"anchor": ["generic"]}}')
        entries = {key: tuple(dict.fromkeys(generic)) for key, generic in united.items()}
        notes += [
            f"{key!r}: equals its only translation, so it unlearns nothing" for key in entries if entries[key] == (key,)
        ]
        anchors = cls(entries, evidence, {}, tuple(notes))
        if keep_all:
            return anchors
        return anchors.filtered()

    def filtered(self) -> "Anchors":
        """Drop, judged on the unfiltered keys, every key that (a) ends in `'s` where the rest is a key, or
        (b) has two or more words each of which is a key."""
        reasons = {key: reason for key in self.entries if (reason := _redundant(key, self.entries)) is not None}
        kept = {key: generic for key, generic in self.entries.items() if key not in reasons}
        evidence = {key: value for key, value in self.evidence.items() if key in kept}
        return dataclasses.replace(self, entries=kept, evidence=evidence, dropped={**self.dropped, **reasons})

    def save(self, path: str | Path) -> None:
        """Write the entries, with their evidence if there is any, as JSON that `load` reads back."""
        write_json(
            path,
            {
                key: {"generic": list(generic), **self.evidence[key]} if self.evidence.get(key) else list(generic)
                for key, generic in self.entries.items()
            },
        )


class Finder:
    """Counts anchors in text by its characters, to compare with what their tokens match.

    Case matters. Any blanks but a blank line may separate the words of an anchor, which is never part of a longer word.

    Args:
      keys: the anchors, in the dictionary's order.
      longest: of several anchors that begin at a place, take the longest instead of the first.
    """

    def __init__(self, keys: Iterable[str], longest: bool = False):
        self._by_head: dict[str, list[tuple[tuple[str, ...], str]]] = {}
        for key in keys:
            atoms = tuple(_atoms(key))
            self._by_head.setdefault(atoms[0], []).append((atoms, key))
        if longest:
            for found in self._by_head.values():
                found.sort(key=lambda pair: -len(pair[0]))

    def count(self, text: str) -> Counter[str]:
        """Return how often each anchor occurs in `text`; occurrences do not overlap."""
        atoms, counts, at = _atoms(text), Counter(), 0
        while at < len(atoms):
            for parts, key in self._by_head.get(atoms[at], ()):
                if tuple(atoms[at : at + len(parts)]) == parts:
                    counts[key] += 1
                    at += len(parts)
                    break
            else:
                at += 1
        return counts


def _atoms(text: str) -> list[str]:
    """Return words and other characters in order, with " " for blanks and a blank line as it is."""
    return [" " if atom.isspace() and atom.count("\n") < 2 else atom for atom in _ATOM.findall(text)]


def _redundant(key: str, keys: Mapping[str, Any]) -> str | None:
    """Return why the filter drops `key`, or None."""
    if key.endswith("'s") and key[:-2] in keys:
        return f"possessive of {key[:-2]!r}"
    words = key.split()
    if len(words) >= 2 and all(word in keys for word in words):
        return "each of its words is an anchor: " + ", ".join(repr(word) for word in words)
    return None


class _Pairs(list):
    """A JSON object as (key, value) pairs, since a dict would lose the first of two equal keys."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(item) for key, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _read_pairs(path: Path) -> _Pairs:
    pairs = read_json(path, remedy='name a dictionary of anchors, {"anchor": ["generic"]}', pairs=_Pairs)
    if not isinstance(pairs, _Pairs):
        raise UserError(f"{path}: is no object of anchors; {REMEDY}")
    return pairs
