"""Errors as one line, and the end of an interrupted command."""

import contextlib
import errno
import logging
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
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
OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")  # what JAX says on a device, and on a CPU


class Terminated(BaseException):
    """SIGTERM outside a training loop, which handles the signal itself."""


def users_fault(error: Exception, out: str) -> str | None:
    """Return one line for an error that the user can mend, None for a fault of the program.

    Args:
      error: the exception.
      out: the folder that the command writes to.
    """
    if isinstance(error, UserError):
        return " ".join(str(error).splitlines())
    if isinstance(error, OSError) and error.errno is not None:
        mend = MENDS.get(error.errno, "mend that, and run the same command again")
        return f"{error.filename or out or 'a file'}: {error.strerror}; {mend}"
    if "No space left on device" in str(error):  # other libraries raise errors of their own
        named = re.search(r"""(?:^|[\s"'])(/[^\s"';]+)""", str(error))
        return f"{named[1] if named else out}: No space left on device; {MENDS[errno.ENOSPC]}"
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
        print(f"jaxforget: {line}", file=sys.stderr, flush=True)
    except OSError:
        silence(sys.stderr)


def silence(stream: TextIO) -> None:
    """Discard what a stream still holds, so that Python does not fail to write it at exit."""
    with contextlib.suppress(OSError, AttributeError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def abandoned(status: int, *, whole: bool) -> int:
    """End a `whole` process at once: threads that are stopped while they work would abort it at exit."""
    if whole:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    return status


def quiet_threads(debug: bool) -> None:
    """Silence libraries that log the error of a thread with its traceback and then raise it here, too."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET if debug else logging.CRITICAL)


@contextlib.contextmanager
def stoppable(interrupted: str, *, whole: bool) -> Iterator[list[BaseException]]:
    """Raise `Terminated` on SIGTERM; end a `whole` process at once on a second Ctrl-C.

    The first Ctrl-C raises KeyboardInterrupt, which a library may swallow, or delay by waiting for its threads.

    Args:
      interrupted: the line that the second Ctrl-C prints.
      whole: True if the process runs only this command.

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

    def interrupt(*_: object) -> NoReturn:
        signal.signal(signal.SIGINT, leave)
        raised.append(KeyboardInterrupt())
        raise raised[-1]

    def leave(*_: object) -> NoReturn:
        # Written to the descriptor, because the interrupted code may hold the stream. The pipe may be closed.
        with contextlib.suppress(OSError):
            os.write(2, f"{interrupted}\n".encode())
        os._exit(130)

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if whole and signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
    try:
        yield raised
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stopped_at_once(last: Callable[[], None], *, whole: bool) -> Iterator[None]:
    """End a `whole` process on SIGINT or SIGTERM after calling `last`, even during a long compilation.

    Python runs signal handlers only between its own instructions, so a thread waits for the signal instead.
    """
    if not whole or threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] in before:
                try:
                    last()
                except OSError:  # the pipe is closed (| head); this thread must still end the process
                    silence(sys.stdout)
                finally:
                    tell("interrupted" if number[0] == signal.SIGINT else "stopped by SIGTERM")
                    abandoned(128 + number[0], whole=True)

    before = {
        number: signal.signal(number, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) not in (None, signal.SIG_IGN)
    }
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)
