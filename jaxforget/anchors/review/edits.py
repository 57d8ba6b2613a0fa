"""Decisions of a reviewer about single anchors, stored beside the dictionary and applied to every new one."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from jaxforget.corpus.dictionary import Anchors
from jaxforget.errors import UserError
from jaxforget.files import check, read_model, write_json

# "" = undecided. For "accepted", "edited" and "added" the translations are the reviewer's.
Verdict = Literal["", "accepted", "edited", "added", "dropped"]
VERDICTS: tuple[str, ...] = get_args(Verdict)
LONGEST = 200  # characters of an anchor or a translation


class ConflictError(UserError):
    """The files changed since they were read."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """An entry of the file of decisions.

    Attributes:
      verdict: one of `VERDICTS`.
      generic: the translations that hold.
      evidence: as in anchors.json.
      was: the translations before the review; none if the review added the anchor.
    """

    verdict: Verdict
    generic: tuple[str, ...]
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict)
    was: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """An anchor under review; evidence as in anchors.json."""

    anchor: str
    generic: tuple[str, ...]
    verdict: str = ""
    evidence: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    was: tuple[str, ...] = ()  # as in `Decision`


@dataclasses.dataclass(frozen=True)
class Change:
    """A decision to save.

    Attributes:
      anchor: the anchor. The dictionary must have it, unless the verdict is "added".
      verdict: one of `VERDICTS`; "" withdraws an earlier decision, and `generic` is then ignored.
      generic: the counterparts; empty keeps those that the entry has. A verdict "added" needs one.
    """

    anchor: str
    verdict: str
    generic: tuple[str, ...] = ()


class Review:
    """The dictionary of a run under review.

    Args:
      anchors: anchors.json, which must exist.
      decided: the file of decisions, written with the first one.
    """

    def __init__(self, anchors: Path, decided: Path):
        self.anchors, self.decided = anchors, decided

    def version(self) -> str:
        """Return a hash of both files, which a change must name."""
        digest = hashlib.sha256()
        for path in (self.anchors, self.decided):
            content = path.read_bytes() if path.is_file() else b""
            digest.update(f"{len(content)} ".encode() + content)
        return digest.hexdigest()[:16]

    def entries(self) -> list[Entry]:
        """Return every entry in the dictionary's order, then the dropped ones."""
        verdicts = read_verdicts(self.decided)
        found = apply_verdicts(Anchors.load(self.anchors, keep_all=True), verdicts)
        standing = [
            Entry(key, generic, decision.verdict, found.evidence.get(key, {}), decision.was)
            for key, generic in found.entries.items()
            for decision in [verdicts.get(key, Decision("", ()))]
        ]
        dropped = [
            Entry(key, decision.generic, "dropped", decision.evidence, decision.was)
            for key, decision in verdicts.items()
            if decision.verdict == "dropped"
        ]
        return standing + dropped

    def save(self, version: str, changes: Sequence[Change]) -> str:
        """Apply changes to the files and return the new version.

        Raises:
          ConflictError: the files are no longer those of `version`.
          UserError: a change that makes no sense, or one that leaves no anchor.
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
            if known is None:
                verdicts[change.anchor] = Decision(change.verdict, generic)
            else:
                was = known.was if known.verdict else known.generic
                verdicts[change.anchor] = Decision(change.verdict, generic, dict(known.evidence), was)
        undone = {change.anchor for change in changes if change.verdict == ""}
        found = Anchors.load(self.anchors, keep_all=True)
        for entry in (entry for entry in before.values() if entry.anchor in undone and entry.verdict):
            # Restore the state before the review; entries that the review added are removed.
            found = without(found, set() if entry.was else {entry.anchor})
            found = insert(found, entry.anchor, entry.was, entry.evidence) if entry.was else found
        applied = apply_verdicts(found, verdicts)
        if not applied.entries:
            raise UserError(f"{self.anchors}: every anchor would be dropped; keep one at least")
        # Decisions are written first, because the dictionary can be made from them again if this process ends here.
        write_json(self.decided, {anchor: dataclasses.asdict(decision) for anchor, decision in verdicts.items()})
        applied.save(self.anchors)
        return self.version()


def check_change(change: Change, known: Mapping[str, Entry]) -> None:
    """Raise `UserError` for a change that makes no sense."""
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


def read_verdicts(path: Path) -> dict[str, Decision]:
    """Read the file of decisions, anchor -> decision; empty if there is no file.

    Raises:
      UserError: it is not such a file.
    """
    if not path.is_file():
        return {}
    return read_model(path, dict[str, Decision], remedy="delete it, and nothing counts as reviewed")


def apply_verdicts(found: Anchors, verdicts: Mapping[str, Decision]) -> Anchors:
    """Return a dictionary with the reviewer's translations and additions, without what was dropped."""
    out = without(found, {key for key, decision in verdicts.items() if decision.verdict == "dropped"})
    for key, decision in verdicts.items():
        if decision.verdict in ("accepted", "edited", "added"):
            out = insert(out, key, decision.generic, decision.evidence)
    return out


def insert(found: Anchors, key: str, generic: Sequence[str], evidence: Mapping[str, Any]) -> Anchors:
    """Return a dictionary with one entry added, or with other translations of an entry.

    A new entry is placed before those of fewer words, so that the parts of a name do not match before it.
    """
    entries = dict(found.entries)
    told = {**found.evidence, **({key: evidence} if evidence and key not in found.evidence else {})}
    if key in entries:
        entries[key] = tuple(generic)
        return dataclasses.replace(found, entries=entries)
    size = len(key.split())
    longer = {other: texts for other, texts in entries.items() if len(other.split()) >= size}
    if longer and list(entries)[: len(longer)] != list(longer):
        # The user has ordered the entries otherwise; the new one goes to the end.
        return dataclasses.replace(found, entries={**entries, key: tuple(generic)}, evidence=told)
    shorter = {other: texts for other, texts in entries.items() if other not in longer}
    return dataclasses.replace(found, entries={**longer, key: tuple(generic), **shorter}, evidence=told)


def without(found: Anchors, keys: set[str]) -> Anchors:
    """Return a dictionary without these entries."""
    entries = {key: generic for key, generic in found.entries.items() if key not in keys}
    evidence = {key: told for key, told in found.evidence.items() if key not in keys}
    return dataclasses.replace(found, entries=entries, evidence=evidence)


def changes_from(value: Any) -> list[Change]:
    """Return the changes of a parsed JSON list [{"anchor", "verdict", "generic"}, …].

    Raises:
      UserError: it is no such list.
    """
    return check(
        value, list[Change], "changes", remedy='give a list of {"anchor": text, "verdict": text, "generic": [text]}'
    )
