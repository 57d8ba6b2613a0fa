"""Texts in columns on a terminal: wrapped at words, the target's terms coloured, rows printed as they become final."""

import os
import re
import unicodedata
from collections.abc import Sequence
from typing import TextIO

NARROWEST = 30  # columns of text below which texts are stacked
GAP = "  "


def display_width(text: str) -> int:
    """Return the terminal columns that a text takes: two for wide characters, none for combining ones."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def wrap(text: str, width: int) -> list[str]:
    """Return the lines of a text, broken at spaces where they exceed `width` columns; longer words are cut.

    A line does not depend on the text after the next line's first word, so that all lines but the last are final while
    a text still grows.
    """
    lines = []
    for paragraph in text.expandtabs(4).split("\n"):
        line = ""
        for word in re.findall(r" *[^ ]+| +", paragraph):
            if line and display_width(line + word) > width:
                lines.append(line)
                line, word = "", word.lstrip(" ")
            while display_width(line + word) > width:
                cut = next(n for n in range(len(word), 0, -1) if n == 1 or display_width(line + word[:n]) <= width)
                lines.append(line + word[:cut])
                line, word = "", word[cut:]
            line += word
        lines.append(line)
    return lines


def coloured(stream: TextIO) -> bool:
    """Return True where `stream` is a terminal and the user does not refuse colours (NO_COLOR)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def highlight(line: str, pattern: re.Pattern[str] | None, *, colour: bool) -> str:
    """Return a line with the target's terms in bold red."""
    return pattern.sub(lambda found: f"\x1b[1;31m{found[0]}\x1b[0m", line) if pattern and colour else line


class Columns:
    """Texts that grow side by side. A row is printed once it is final in every column, so nothing is ever redrawn.

    Args:
      titles: of the columns.
      width: of the terminal.
      out: where rows are printed.
      pattern: terms to highlight.
    """

    def __init__(self, titles: Sequence[str], width: int, out: TextIO, pattern: re.Pattern[str] | None = None):
        self.width = (width - len(GAP) * (len(titles) - 1)) // len(titles)
        self._out, self._pattern, self._colour = out, pattern, coloured(out)
        self._texts, self._ended, self._printed = [""] * len(titles), [False] * len(titles), 0
        # The end of a path says most.
        short = [t if len(t) <= self.width else "…" + t[-self.width + 1 :] for t in titles]
        self._row(short, title=True)

    def add(self, place: int, text: str) -> None:
        """Append to the text of a column, and print the rows that are now final."""
        self._texts[place] += text
        self._flush()

    def end(self, place: int) -> None:
        """Declare that a column is complete."""
        self._ended[place] = True
        self._flush()

    def _flush(self) -> None:
        wrapped = [wrap(text.strip("\n").lstrip(), self.width) for text in self._texts]
        known = [len(lines) if ended else len(lines) - 1 for lines, ended in zip(wrapped, self._ended, strict=True)]
        waiting = [n for n, ended in zip(known, self._ended, strict=True) if not ended]
        final = min(waiting) if waiting else max(known)
        while self._printed < final:
            self._row([lines[self._printed] if self._printed < len(lines) else "" for lines in wrapped])
            self._printed += 1

    def _row(self, cells: Sequence[str], *, title: bool = False) -> None:
        shown = []
        for cell in cells:
            padding = " " * (self.width - display_width(cell))
            text = highlight(cell, self._pattern, colour=self._colour)
            shown.append((f"\x1b[1m{cell}\x1b[0m" if title and self._colour else text) + padding)
        print(GAP.join(shown).rstrip(), file=self._out, flush=True)


def fits(count: int, width: int) -> bool:
    """Return True if `count` columns have room for text on a terminal of `width` columns."""
    return count > 1 and (width - len(GAP) * (count - 1)) // count >= NARROWEST
