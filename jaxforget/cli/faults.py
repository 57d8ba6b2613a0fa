"""A user's fault as one line, and how a command that is interrupted ends."""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn, TextIO

from jaxforget.errors import UserError

MENDS = {
    errno.ENOSPC: "free space there, and run the same command again",
    errno.EDQUOT: "free space there, and run the same command again",
    errno.EACCES: "allow it, or name another place",
    errno.EPERM: "allow it, or name another place",
    errno.EROFS: "name a place that can be written",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class Terminated(BaseException):
    """SIGTERM outside a training loop, which has its own way of stopping."""


def users_fault(error: Exception, out: str) -> str | None:
    """One line for what the user can mend; None for what is ours. `out` is where the command writes."""
    if isinstance(error, UserError):
        return " ".join(str(error).splitlines())
    if isinstance(error, OSError) and error.errno is not None:
        mend = MENDS.get(error.errno, "mend that, and run the same command again")
        return f"{error.filename or out or 'a file'}: {error.strerror}; {mend}"
    if "No space left on device" in str(error):  # the kinds of error that other libraries have for it
        named = re.search(r"""(?:^|[\s"'])(/[^\s"';]+)""", str(error))
        return f"{named[1] if named else out}: No space left on device; {MENDS[errno.ENOSPC]}"
    if "RESOURCE_EXHAUSTED" in str(error) or isinstance(error, MemoryError):
        return (
            "out of memory: raise forget.accumulate and reinforce.accumulate, lower targets.tile or blocks.length, "
            "set model.remat=full, or use more devices (--debug shows where)"
        )
    return None


def tell(line: str) -> None:
    """A last line on standard error; its reader may be gone, which must not change the status (`2>&1 | tee`)."""
    try:
        print(f"jaxforget: {line}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Sends what a stream still holds nowhere: nothing more can be said to it, not even at exit."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def abandoned(status: int, *, whole: bool) -> int:
    """Ends a `whole` process at once: threads stopped in the midst of their work would abort it on its way out."""
    if whole:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    return status


def quiet_threads(debug: bool) -> None:
    """Libraries log a thread's fault with its traceback, and then raise it here, where it is told in a line."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET if debug else logging.CRITICAL)


@contextlib.contextmanager
def stoppable(interrupted: str, *, whole: bool) -> Iterator[None]:
    """While it lasts, SIGTERM raises `Terminated`; a second Ctrl-C that gets here ends a `whole` process at once.

    The first one raises KeyboardInterrupt, which a library may swallow, or wait for its own threads on its way out.
    `interrupted` is what is said then.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> NoReturn:
        raise Terminated

    def interrupt(*_: object) -> NoReturn:
        signal.signal(signal.SIGINT, leave)
        raise KeyboardInterrupt

    def leave(*_: object) -> NoReturn:
        # By the descriptor: what is interrupted may be writing to the stream. Whoever read it may be gone.
        with contextlib.suppress(OSError):
            os.write(2, f"{interrupted}\n".encode())
        os._exit(130)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if whole and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
