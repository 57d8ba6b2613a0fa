"""What every script here does alike: a fault that the user can mend is one line and exit status 2, as the command's is.

Imported before anything that is not Python's own, since it also says where packages are missing.
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

# A script's own imports would fail on these before its `run` could say so.
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
    """argparse, but a fault is raised as every other is."""

    def __init__(self, script: str, description: str):
        name = Path(script).name
        super().__init__(name, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Raises `UserError`."""
        raise UserError(f"{' '.join(message.split())}; --help lists the options")


def number(kind: type, least: float, below: float = 2**31) -> Callable[[str], float]:
    """An option's type: what argparse calls for an int or float from `least` to below `below`, nan refused."""
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
    """One line for what the user can mend; None for what is ours."""
    # Not at this file's head: the benches' sides measure memory, and none of theirs should be the command's.
    from jaxforget.cli.faults import OUT_OF_MEMORY, users_fault

    if isinstance(error, ModuleNotFoundError):
        return f"{error}; scripts/test installs every package that the scripts need into .venv"
    if isinstance(error, MemoryError) or (
        not isinstance(error, UserError) and any(sign in str(error) for sign in (*OUT_OF_MEMORY, *MEMORY))
    ):
        return f"out of memory; {SMALLER}"
    return users_fault(error, "")


def run(script: str, main: Callable[[Sequence[str]], int | None]) -> NoReturn:
    """Runs `main` of the file `script` on the command line's words and ends the process.

    With its status; 2 after a line on standard error for the user's fault; 130 after Ctrl-C.
    """
    name = Path(script).stem
    # Its advice is about frameworks that are not used here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # As an exception, so that what was begun is cleaned up.
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


def require(package: str, mend: str) -> None:
    """Raises `UserError` where `package` is not installed; does not import it."""
    if find_spec(package) is None:
        raise UserError(f"the package {package} is not installed; {mend}")


def check_room(folder: Path, size: int, mend: str) -> None:
    """Raises `UserError` unless `size` bytes can be written into `folder`, or the nearest above it that there is."""
    place = next(path for path in (folder, *folder.parents) if path.is_dir())
    if not os.access(place, os.W_OK):
        raise UserError(f"{place}: cannot be written; allow it, or {mend}")
    free = shutil.disk_usage(place).free
    if free < size:
        raise UserError(f"{place}: {size / 1e9:,.1f} GB are to be written, its disk has {free / 1e9:,.1f} free; {mend}")


def unanswered(what: str, status: int) -> NoReturn:
    """Raises or ends for a process, told as `what`, that ended with `status` and without an answer."""
    if status == -signal.SIGKILL:
        raise UserError(f"{what} was killed, most often because memory ran out; {SMALLER}")
    sys.exit(f"{Path(sys.argv[0]).stem}: {what} ended with status {status}; what it said stands above")
