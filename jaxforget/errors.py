"""The exception for mistakes of the user, and text that is safe to print."""

import re

# Control characters, which can move a terminal's cursor, change its title or reverse text; new lines and tabs stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """An error that the user can fix: one line that names the file, key or value, and the remedy.

    The command line prints the line on standard error and ends with status 2; `--debug` shows the traceback.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def printable(text: str) -> str:
    """Return text that a terminal shows and does not obey: every control character becomes U+FFFD."""
    return _CONTROL.sub("\ufffd", text)
