"""Texts of novels: chapters, paragraphs without line breaks, and excerpts of a given number of tokens."""

import re
from collections.abc import Callable
from pathlib import Path

from jaxforget.errors import UserError

HEADING = re.compile(r"^ *(?:chapter|letter)\s+[ivxlc\d]+\b.*$", re.IGNORECASE)
LEAST = 400  # letters of a chapter; a shorter piece is an entry of a table of contents


def read_chapters(path: Path) -> list[str]:
    """Return the chapters of a novel, each as paragraphs without line breaks.

    A novel without chapter headings is one chapter. Underscores, which mark italics in plain text, are removed.

    Raises:
      UserError: the file is missing or holds no text.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such novel; put it there as plain text, or leave out --texts")
    chapters: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        if HEADING.match(line):
            chapters.append([])
        elif not re.fullmatch(r"\s*VOLUME [IVX]+\s*", line):
            chapters[-1].append(line)
    found = ["\n".join(lines) for lines in chapters[1:] or chapters]
    texts = [text for text in map(_paragraphs, found) if len(text) >= LEAST]
    if not texts:
        raise UserError(f"{path}: holds no text of a chapter's length; give a novel as plain text")
    return texts


def _paragraphs(text: str) -> str:
    """Return `text` with one line a paragraph."""
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text.replace("_", "")))
    return "\n\n".join(part for part in parts if part)


def split_tokens(text: str, tokens: int, count: Callable[[str], int]) -> tuple[str, str]:
    """Return the first paragraphs of `text`, at most `tokens` tokens of them, and the rest.

    Args:
      text: paragraphs.
      tokens: the largest number of tokens of the first part.
      count: returns the number of tokens of a text.
    """
    paragraphs = text.split("\n\n")
    used = taken = 0
    for paragraph in paragraphs:
        used += count(paragraph + "\n\n")
        if used > tokens:
            break
        taken += 1
    return "\n\n".join(paragraphs[:taken]), "\n\n".join(paragraphs[taken:])
