"""Errors as one line, and the end of an interrupted command."""

import contextlib
import errno
import io
import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from typing import Any, NoReturn, TextIO

from jaxforget.errors import UserError, printable

REMEDIES = {
    errno.ENOSPC: "free space there, and run the same command again",
    errno.EDQUOT: "free space there, and run the same command again",
    errno.EACCES: "allow it, or name another place",
    errno.EPERM: "allow it, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")  # what JAX says on a device, and on a CPU

# What JAX says when another process of a run is gone: its collectives on a CPU, and its coordination service.
LOST = ("Gloo", "Connection closed by peer", "coordination service", "CoordinationService", "heartbeat timeout")


class Terminated(BaseException):
    """SIGTERM outside a training loop, which handles the signal itself."""


def users_fault(error: Exception, out: str) -> str | None:
    """Return one line for an error that the user can fix, None for a fault of the program.

    Args:
      error: the exception.
      out: the folder that the command writes to.
    """
    if isinstance(error, UserError):
        return " ".join(str(error).splitlines())
    if isinstance(error, OSError) and error.errno is not None:
        remedy = REMEDIES.get(error.errno, "fix that, and run the same command again")
        return f"{error.filename or out or 'a file'}: {error.strerror}; {remedy}"
    if "No space left on device" in str(error):  # other libraries raise errors of their own
        named = re.search(r"""(?:^|[\s"'])(/[^\s"';]+)""", str(error))
        return f"{named[1] if named else out}: No space left on device; {REMEDIES[errno.ENOSPC]}"
    if any(sign in str(error) for sign in LOST):
        return (
            "another process of this run ended or cannot be reached; run the same command on every host to go on from "
            "the last checkpoint (--debug shows the error)"
        )
    if missing := _missing_platform(error):
        return f"JAX_PLATFORMS: this machine has no {missing}; unset it, or set it to cpu (--debug shows why)"
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in OUT_OF_MEMORY):
        return (
            "out of memory: raise forget.accumulate and reinforce.accumulate, lower targets.tile or blocks.length, "
            "set model.remat=full, or use more devices (--debug shows where)"
        )
    return None


def _missing_platform(error: Exception) -> str | None:
    """Return the platform that JAX was told to use and lacks, or None."""
    if found := re.search(r"Unable to initialize backend '(\w+)'", str(error)):
        return found[1]
    # If the plugin of a platform is not installed, JAX only asserts that some platform is left.
    within = [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1:]
    return os.environ.get("JAX_PLATFORMS", "") if isinstance(error, AssertionError) and within == ["backends"] else None


def tell(line: str) -> None:
    """Print a last line on standard error; a closed pipe (`2>&1 | tee`) must not change the exit status."""
    try:
        print(f"jaxforget: {printable(line)}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def replace_unprintable(stream: TextIO) -> None:
    """Make a stream print "?" for characters that its encoding lacks (LC_ALL=C, a pipe in latin-1), not fail."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")


def as_json(value: Any) -> str:
    """Return JSON on one line; characters are escaped unless standard output is Unicode."""
    return json.dumps(value, ensure_ascii=not (sys.stdout.encoding or "").lower().startswith("utf"))


def silence(stream: TextIO) -> None:
    """Discard what a stream still holds, so that Python does not fail to write it at exit."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def leave(status: int) -> NoReturn:
    """End the process at once with the exit status."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def quiet_threads(debug: bool) -> None:
    """Silence threads and destructors, whose errors only repeat one that the command itself raises."""
    if debug:
        return
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    threading.excepthook = sys.unraisablehook = lambda _: None


@contextlib.contextmanager
def terminable() -> Iterator[list[BaseException]]:
    """Raise `Terminated` on SIGTERM, where a program calls `main`; see `jaxforget.interrupts` for the command itself.

    Yields:
      The exceptions raised so far: a library that is being imported may replace one by an error of its own.
    """
    raised: list[BaseException] = []
    if threading.current_thread() is not threading.main_thread():
        yield raised
        return

    def stop(*_: object) -> NoReturn:
        raised.append(Terminated())
        raise raised[-1]

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield raised
    finally:
        signal.signal(signal.SIGTERM, before)
