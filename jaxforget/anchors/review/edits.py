"""Decisions about single anchors: kept beside the dictionary, applied to it, and to one that is found anew."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxforget.corpus.dictionary import Anchors
from jaxforget.errors import UserError
from jaxforget.files import read_json, write_json

# "" = undecided. Of "accepted", "edited" and "added" the translations are the reviewer's; "dropped" is out.
VERDICTS = ("", "accepted", "edited", "added", "dropped")
LONGEST = 200  # characters of an anchor or a translation


class ConflictError(UserError):
    """The files changed since they were read."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """An anchor under review; evidence as in anchors.json."""

    anchor: str
    generic: tuple[str, ...]
    verdict: str = ""
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    was: tuple[str, ...] = ()  # the translations before the review; none where it added the entry


@dataclasses.dataclass(frozen=True)
class Change:
    """A decision: `verdict` one of `VERDICTS`, with the translations that hold then (none where it is dropped)."""

    anchor: str
    verdict: str
    generic: tuple[str, ...] = ()


class Review:
    """The dictionary of a run under review.

    Args:
      anchors: anchors.json, which must exist.
      decided: the file of decisions; made when there are some.
    """

    def __init__(self, anchors: Path, decided: Path):
        self.anchors, self.decided = anchors, decided

    def version(self) -> str:
        """A hash of both files: what a change is checked against."""
        digest = hashlib.sha256()
        for path in (self.anchors, self.decided):
            content = path.read_bytes() if path.is_file() else b""
            digest.update(f"{len(content)} ".encode() + content)
        return digest.hexdigest()[:16]

    def entries(self) -> list[Entry]:
        """Every entry in the dictionary's order, then what was dropped."""
        verdicts = read_verdicts(self.decided)
        found = apply_verdicts(Anchors.load(self.anchors, keep_all=True), verdicts)
        standing = [
            Entry(
                key,
                generic,
                verdicts.get(key, {}).get("verdict", ""),
                found.evidence.get(key, {}),
                tuple(verdicts.get(key, {}).get("was", ())),
            )
            for key, generic in found.entries.items()
        ]
        dropped = [
            Entry(key, tuple(told["generic"]), "dropped", told.get("evidence", {}), tuple(told.get("was", ())))
            for key, told in verdicts.items()
            if told["verdict"] == "dropped"
        ]
        return standing + dropped

    def save(self, version: str, changes: Sequence[Change]) -> str:
        """Applies changes to what stands in the files; returns the new version.

        Raises:
          ConflictError: the files are no longer those of `version`. UserError: a change that makes no sense, or one
            that leaves no anchor.
        """
        if version != self.version():
            raise ConflictError(
                f"{self.anchors}: changed since it was read; load it again, nothing of your changes was saved"
            )
        before = {entry.anchor: entry for entry in self.entries()}
        verdicts = dict(read_verdicts(self.decided))
        for change in changes:
            check_change(change, before)
            known = before.get(change.anchor)
            if change.verdict == "" and known is not None:
                verdicts.pop(change.anchor, None)
                continue
            generic = change.generic or (known.generic if known else ())
            told: dict[str, Any] = {"verdict": change.verdict, "generic": list(generic)}
            if known is not None and known.evidence:
                told["evidence"] = dict(known.evidence)
            if known is not None and (was := known.was if known.verdict else known.generic):
                told["was"] = list(was)
            verdicts[change.anchor] = told
        undone = {change.anchor for change in changes if change.verdict == ""}
        found = Anchors.load(self.anchors, keep_all=True)
        for entry in (entry for entry in before.values() if entry.anchor in undone and entry.verdict):
            # As it was before the review: what that added goes.
            found = without(found, set() if entry.was else {entry.anchor})
            found = insert(found, entry.anchor, entry.was, entry.evidence) if entry.was else found
        applied = apply_verdicts(found, verdicts)
        if not applied.entries:
            raise UserError(f"{self.anchors}: every anchor would be dropped; keep one at least")
        # The decisions first: the dictionary can be made from them again, should this process end in between.
        write_json(self.decided, verdicts)
        applied.save(self.anchors)
        return self.version()


def check_change(change: Change, known: Mapping[str, Entry]) -> None:
    """Raises `UserError` for a change that makes no sense."""
    where = f"anchor {change.anchor[:LONGEST]!r}"
    if change.verdict not in VERDICTS:
        raise UserError(f"{where}: {change.verdict!r} is none of {', '.join(filter(None, VERDICTS))}")
    if change.anchor not in known and change.verdict != "added":
        raise UserError(f"{where}: is not in the dictionary; add it")
    if change.anchor not in known and not change.generic:
        raise UserError(f"{where}: no translations; give one at least")
    for text in (change.anchor, *change.generic):
        fault = _fault(text)
        if fault:
            raise UserError(f"{where}: {text[:LONGEST]!r} {fault}")
    if change.verdict != "dropped" and change.generic == (change.anchor,):
        raise UserError(f"{where}: its only translation is itself, which unlearns nothing; give another")


def _fault(text: str) -> str | None:
    if text != text.strip() or not text:
        return "is empty or has blanks around it"
    if len(text) > LONGEST:
        return f"is longer than {LONGEST} characters"
    if re.search("[\ud800-\udfff\x00-\x1f\x7f]", text):
        return "holds a line end or another character that no text has"
    return None


def read_verdicts(path: Path) -> dict[str, dict[str, Any]]:
    """The file of decisions: anchor -> {"verdict", "generic", "evidence"}; none where there is no file.

    Raises:
      UserError: it is not such a file.
    """
    if not path.is_file():
        return {}
    verdicts = read_json(path)
    good = isinstance(verdicts, dict) and all(
        isinstance(told, dict)
        and told.get("verdict") in VERDICTS
        and isinstance(told.get("generic"), list)
        and all(isinstance(text, str) for text in told["generic"])
        for told in verdicts.values()
    )
    if not good:
        raise UserError(f"{path}: not a file of decisions; delete it, and nothing counts as reviewed")
    return verdicts


def apply_verdicts(found: Anchors, verdicts: Mapping[str, Mapping[str, Any]]) -> Anchors:
    """A dictionary after a review: the reviewer's translations, without what was dropped, with what was added."""
    out = without(found, {key for key, told in verdicts.items() if told["verdict"] == "dropped"})
    for key, told in verdicts.items():
        if told["verdict"] in ("accepted", "edited", "added"):
            out = insert(out, key, tuple(told["generic"]), told.get("evidence", {}))
    return out


def insert(found: Anchors, key: str, generic: Sequence[str], evidence: Mapping[str, Any]) -> Anchors:
    """With one entry more, or other translations of one: a new one stands before those of fewer words, so that a
    name's parts do not match before it."""
    entries = dict(found.entries)
    told = {**found.evidence, **({key: evidence} if evidence and key not in found.evidence else {})}
    if key in entries:
        entries[key] = tuple(generic)
        return dataclasses.replace(found, entries=entries)
    size = len(key.split())
    longer = {other: texts for other, texts in entries.items() if len(other.split()) >= size}
    if longer and list(entries)[: len(longer)] != list(longer):
        # An order of the user's own: at its end.
        return dataclasses.replace(found, entries={**entries, key: tuple(generic)}, evidence=told)
    shorter = {other: texts for other, texts in entries.items() if other not in longer}
    return dataclasses.replace(found, entries={**longer, key: tuple(generic), **shorter}, evidence=told)


def without(found: Anchors, keys: set[str]) -> Anchors:
    """Without these entries."""
    entries = {key: generic for key, generic in found.entries.items() if key not in keys}
    evidence = {key: told for key, told in found.evidence.items() if key not in keys}
    return dataclasses.replace(found, entries=entries, evidence=evidence)


def changes_from(value: Any) -> list[Change]:
    """Changes from JSON: [{"anchor", "verdict", "generic"}, …].

    Raises:
      UserError: it is no such list.
    """
    try:
        changes = [
            Change(_text(item["anchor"]), _text(item["verdict"]), tuple(map(_text, item.get("generic", ()))))
            for item in value
        ]
    except (TypeError, KeyError, AttributeError):
        raise UserError('changes: give a list of {"anchor": text, "verdict": text, "generic": [text]}') from None
    return changes


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(json.dumps(value, default=str)[:50])
    return value
