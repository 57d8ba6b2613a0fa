"""The one exception that a user's mistake raises."""


class UserError(Exception):
    """A fault that the user can mend: one line naming the file, key or value, and the mend.

    The command line prints it on standard error and exits with status 2; a traceback is shown only with `--debug`.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its type's name where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
