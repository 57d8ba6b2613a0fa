"""The anchor dictionary: expressions of the target and their generic counterparts (METHOD.md §3)."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError
from jaxforget.files import read_json, write_json


@dataclasses.dataclass(frozen=True)
class Anchors:
    """Anchors in file order, each with its distinct generic counterparts.

    Attributes:
      entries: anchor -> its generic counterparts, at least one, in the order first seen.
      evidence: anchor -> whatever else the file says of it (passages, counts, a verdict); never read here.
      dropped: anchor -> why the filter of METHOD.md §3 dropped it.
      notes: one line for every entry that was mended or that will have no effect.
    """

    entries: Mapping[str, tuple[str, ...]]
    evidence: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    dropped: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def load(cls, path: str | Path, *, keep_all: bool = False) -> "Anchors":
        """Reads `{"anchor": ["generic", …]}` and, unless `keep_all`, applies the filter.

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
            generic, rest = _split_value(path, key, value)
            if re.search("[\ud800-\udfff]", "".join([key, *generic])):
                raise UserError(f"{path}: {key!r}: holds half of a \\u surrogate pair; mend its escapes")
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
        """Drops, judged on the unfiltered keys, every key that (a) ends in `'s` where the rest is a key, or
        (b) has two or more words each of which is a key."""
        reasons = {key: reason for key in self.entries if (reason := _redundant(key, self.entries)) is not None}
        kept = {key: generic for key, generic in self.entries.items() if key not in reasons}
        evidence = {key: value for key, value in self.evidence.items() if key in kept}
        return dataclasses.replace(self, entries=kept, evidence=evidence, dropped={**self.dropped, **reasons})

    def save(self, path: str | Path) -> None:
        """Writes the entries (with their evidence, where there is some) as JSON that `load` reads back."""
        write_json(
            path,
            {
                key: {"generic": list(generic), **self.evidence[key]} if self.evidence.get(key) else list(generic)
                for key, generic in self.entries.items()
            },
        )


def _redundant(key: str, keys: Mapping[str, Any]) -> str | None:
    """Why the filter drops `key`, or None."""
    if key.endswith("'s") and key[:-2] in keys:
        return f"possessive of {key[:-2]!r}"
    words = key.split()
    if len(words) >= 2 and all(word in keys for word in words):
        return "each of its words is an anchor: " + ", ".join(repr(word) for word in words)
    return None


class _Pairs(list):
    """A JSON object as its (key, value) pairs: a dict would lose the first of two equal keys."""


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(item) for key, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _read_pairs(path: Path) -> _Pairs:
    pairs = read_json(path, mend='name a dictionary of anchors, {"anchor": ["generic"]}', pairs=_Pairs)
    if not isinstance(pairs, _Pairs):
        raise UserError(f'{path}: holds a {_kind(pairs)}; it must be an object, {{"anchor": ["generic"]}}')
    return pairs


def _split_value(path: Path, key: str, value: Any) -> tuple[list[str], dict[str, Any]]:
    """The translations and the evidence of one entry, checked."""
    rest: dict[str, Any] = {}
    if isinstance(value, _Pairs):
        rest = _plain(value)
        if "generic" not in rest:
            raise UserError(f'{path}: {key!r}: the object has no "generic"; give its translations there')
        value = rest.pop("generic")
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        raise UserError(f"{path}: {key!r}: a {_kind(value)}; give a string or a list of strings")
    if not value:
        raise UserError(f"{path}: {key!r}: no translations; give at least one or remove the anchor")
    for item in value:
        if not isinstance(item, str):
            raise UserError(f"{path}: {key!r}: a translation is a {_kind(item)}; each must be a string")
        if not item.strip():
            raise UserError(f"{path}: {key!r}: a translation is empty; remove it or give a replacement")
    return [item.strip() for item in value], rest


def _kind(value: Any) -> str:
    """JSON's own name for the type of `value`."""
    names = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "string", list: "list"}
    return "object" if isinstance(value, (dict, _Pairs)) else names.get(type(value), type(value).__name__)
