"""The exception for mistakes of the user."""


class UserError(Exception):
    """An error that the user can mend: one line that names the file, key or value, and the remedy.

    The command line prints the line on standard error and ends with status 2; `--debug` shows the traceback.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
