"""Command-line behaviour that all scripts share: a user's error is one line and exit status 2.

Import it before any package outside the standard library, because it also reports missing packages.
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

# A script's own imports would fail on these before its `run` could report them.
if any(find_spec(name) is None for name in ("jaxforget", "jax", "numpy", "omegaconf")):
    print(
        f"{Path(sys.argv[0]).stem}: this Python has no jaxforget installed, or not what it needs: run it by "
        ".venv/bin/python, which scripts/test makes",
        file=sys.stderr,
    )
    sys.exit(2)

from jaxforget.errors import UserError

MEMORY = ("out of memory", "can't allocate memory")  # torch on a GPU and on a CPU; JAX's are the command's
SMALLER = "ask for fewer blocks or a smaller model, or take a machine that has more"


class Parser(argparse.ArgumentParser):
    """An argument parser that raises `UserError`."""

    def __init__(self, script: str, description: str):
        name = Path(script).name
        super().__init__(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError`."""
        raise UserError(f"{' '.join(message.split())}; --help lists the options")


def number(kind: type, least: float, below: float = 2**31) -> Callable[[str], float]:
    """Return an argparse type: an int or float from `least` to below `below`; NaN is refused."""
    told = (
        f"a whole number from {least} to {below - 1}" if kind is int else f"a number from {least:g} to below {below:g}"
    )

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = below
        if not least <= value < below:
            raise argparse.ArgumentTypeError(f"{text!r}: give {told}")
        return value

    return read


def fault_line(error: Exception) -> str | None:
    """Return one line for an error that the user can correct; None for a fault of the program."""
    # Not at the top of this file: the sides of the benches measure memory, which must not include the command's.
    from jaxforget.cli.faults import OUT_OF_MEMORY, users_fault

    if isinstance(error, ModuleNotFoundError):
        return f"{error}; scripts/test installs every package that the scripts need into .venv"
    if isinstance(error, MemoryError) or (
        not isinstance(error, UserError) and any(sign in str(error) for sign in (*OUT_OF_MEMORY, *MEMORY))
    ):
        return f"out of memory; {SMALLER}"
    return users_fault(error, "")


def run(script: str, main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Run `main` of the file `script` on the command line's words and end the process.

    The exit status is `main`'s, 2 after a line on standard error for a user's error, 130 after Ctrl-C.
    """
    name = Path(script).stem
    # transformers' advice concerns frameworks that are not used here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # As an exception, so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        status = main(sys.argv[1:])
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if (line := fault_line(error)) is None:
            raise
        print(f"{name}: {line}", file=sys.stderr)
        sys.exit(2)
    sys.exit(status)


def require(package: str, remedy: str) -> None:
    """Raise `UserError` if `package` is not installed; do not import it."""
    if find_spec(package) is None:
        raise UserError(f"the package {package} is not installed; {remedy}")


def check_room(folder: Path, size: int, remedy: str) -> None:
    """Raise `UserError` unless `size` bytes can be written into `folder`, or into its nearest existing parent."""
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    if not os.access(place, os.W_OK):
        raise UserError(f"{place}: cannot be written; allow it, or {remedy}")
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(
            f"{place}: {size / 1e9:,.1f} GB are to be written, its disk has {free / 1e9:,.1f} free; {remedy}"
        )


def unanswered(what: str, status: int) -> NoReturn:
    """Raise `UserError` or exit, because the process named `what` ended with `status` and gave no answer."""
    if status == -signal.SIGKILL:
        raise UserError(f"{what} was killed, most often because memory ran out; {SMALLER}")
    sys.exit(f"{Path(sys.argv[0]).stem}: {what} ended with status {status}; what it said stands above")
