"""A review as a text file, which is written, edited in any editor, and read back."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxforget.anchors.review.edits import Change, Entry, Review
from jaxforget.errors import UserError
from jaxforget.files import write_text

MARKS = {"?": "", "+": "accepted", "-": "dropped"}
HEAD = """\
# Review of the anchors. Each anchor has one line; the comment after it shows the evidence.
#
#   ? Name = One | Other      not decided yet        + accept it        - drop it
#
# Edit the translations, or add lines. Deleting a line does not change its anchor.
# In a name or a translation write \\= for = and \\| for |. Then run the same command again: it reads this file.
# version {version}

"""


def write_form(path: Path, review: Review) -> int:
    """Write the form; return the number of its entries."""
    entries = review.entries()
    lines = [HEAD.format(version=review.version())]
    for entry in entries:
        lines.append(f"{_mark(entry)} {_escaped(entry.anchor)} = {' | '.join(map(_escaped, entry.generic))}\n")
        if about := _about(entry):
            lines.append(f"#     {about}\n")
    write_text(path, "".join(lines))
    return len(entries)


def read_form(path: Path, review: Review) -> list[Change]:
    """Return the changes that an edited form contains.

    Raises:
      UserError: the form is not UTF-8 or has no version line; a line is malformed; an anchor has two lines; the
        dictionary changed since the form was written.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    version = re.search(r"^# version (\w+)", text, re.MULTILINE)
    if version is None:
        raise UserError(f"{path}: its version line is missing; delete the file and run the command again for a new one")
    if version[1] != review.version():
        raise UserError(
            f"{path}: the dictionary changed since this form was written; move the form away, run the command again "
            "for a new one, and copy your changes into it"
        )
    known = {entry.anchor: entry for entry in review.entries()}
    changes, seen = [], set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        change = _change(line.strip(), known, f"{path}:{number}")
        anchor = change.anchor if change else _parse(line.strip(), "")[1]
        if anchor in seen:
            raise UserError(f"{path}:{number}: {anchor!r} already has a line; keep one of them")
        seen.add(anchor)
        if change is not None:
            changes.append(change)
    return changes


def _change(line: str, known: dict[str, Entry], where: str) -> Change | None:
    """Return the change that a line makes; None if it makes none."""
    mark, anchor, generic = _parse(line, where)
    entry = known.get(anchor)
    if entry is None:
        return None if mark == "-" else Change(anchor, "added", generic)
    if mark == "-":
        return None if entry.verdict == "dropped" else Change(anchor, "dropped")
    if generic != entry.generic:
        return Change(anchor, "added" if entry.verdict == "added" else "edited", generic)
    if _mark(entry) == mark:
        return None
    return Change(anchor, MARKS[mark], generic)


def _parse(line: str, where: str) -> tuple[str, str, tuple[str, ...]]:
    """Return (mark, anchor, translations) of a line."""
    match = re.match(r"([?+-])\s+(.*)", line)
    if match is None:
        raise UserError(f"{where}: does not begin with ?, + or -; write it as: + Name = One | Other")
    anchor, sign, rest = _split(match[2], "=")
    if not sign:
        raise UserError(f"{where}: has no =; write it as: + Name = One | Other")
    generic = []
    while rest:
        text, _, rest = _split(rest, "|")
        if text:
            generic.append(text)
    if not anchor or (not generic and match[1] != "-"):
        raise UserError(f"{where}: the name or its translations are missing; write it as: + Name = One | Other")
    return match[1], anchor, tuple(dict.fromkeys(generic))


def _split(text: str, sign: str) -> tuple[str, str, str]:
    """Partition `text` at the first `sign` without a backslash before it; unescape the first part."""
    match = re.search(rf"(?<!\\){re.escape(sign)}", text)
    head, tail = (text, "") if match is None else (text[: match.start()], text[match.end() :])
    return re.sub(r"\\([=|])", r"\1", head).strip(), sign if match else "", tail.strip()


def _mark(entry: Entry) -> str:
    return "-" if entry.verdict == "dropped" else "+" if entry.verdict else "?"


def _escaped(text: str) -> str:
    return re.sub(r"([=|])", r"\\\1", text)


def _about(entry: Entry) -> str:
    told = entry.evidence
    parts: Sequence[str] = [
        str(told.get("kind", "")),
        f"{told['count']} times" if "count" in told else "",
        f"contrast {told['contrast']}" if "contrast" in told else "",
        f"gain {told['gain']}" if "gain" in told else "",
    ]
    line = ", ".join(part for part in parts if part)
    return f"{line}: {told['example']}" if told.get("example") else line
