"""The exceptions that end a command in one line, and text that is safe to print."""

import re
import signal

# Control characters, which can move a terminal's cursor, change its title or reverse text; new lines and tabs stay.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class UserError(Exception):
    """An error that the user can fix: one line that names the file, key or value, and the remedy.

    The command line prints the line on standard error and ends with status 2; `--debug` shows the traceback.
    """


class Preempted(Exception):
    """A signal stopped the run after its state was saved; the same command continues from there.

    Args:
      stage: the stage that was stopped.
      step: the last saved step; None if the stage had not begun.
      number: SIGTERM (a preemption) or SIGINT (Ctrl-C).
    """

    def __init__(self, stage: str, step: int | None = None, number: signal.Signals = signal.SIGTERM):
        self.signal = number
        how = "not begun" if step is None else f"saved at step {step}"
        super().__init__(f"{stage}: stopped by {number.name}, {how}; run the same command to continue")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def printable(text: str) -> str:
    """Return text that a terminal shows and does not obey: every control character becomes U+FFFD."""
    return _CONTROL.sub("\ufffd", text)
