"""Ctrl-C and SIGTERM end a command from its first instant: one line and a status that launchers know.

This module imports nothing heavy: the entry point uses it before everything else.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

READ_SECONDS = 0.2  # within which the handler of a command that reads input has normally run
TERM_SECONDS = 25.0  # launchers kill a process about 30 s after SIGTERM
FLUSH_SECONDS = 2.0  # a reader that stopped reading must not keep the process alive
NAMES = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped by SIGTERM"}


class Ending:
    """The handler of SIGINT and SIGTERM of a process that runs one command.

    A thread ends the process, because Python runs handlers only between its own instructions (a compilation takes
    minutes) and because a library may swallow an exception that a handler raises. Nothing needs a clean end: files
    are replaced atomically, and the next command removes what was half-written.

    A handler that another part of the program installs meanwhile is left alone. If it has an attribute `saving`, as
    that of the training loop, the process ends at a second Ctrl-C, or `TERM_SECONDS` after SIGTERM unless `saving` is
    true by then. An attribute `reads_input`, as that of a chat, is true while the main thread waits for a line, until
    the handler runs. If it is still true a moment after a signal, the signal is sent again to that thread.

    Attributes:
      resumable: the end of the last line; tells how to go on.
      last: called before the process ends; prints what is finished.
    """

    def __init__(self) -> None:
        self.resumable = ""
        self.last: Callable[[], None] = lambda: None
        self._waiting: list[object] = []
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def install(self) -> None:
        """Install the handlers. Call this in the main thread; signals that are ignored stay ignored."""
        threading.Thread(target=self._watch, daemon=True).start()
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in NAMES:
            if signal.getsignal(number) not in (None, signal.SIG_IGN):
                signal.signal(number, self)

    def __call__(self, number: int, _: object) -> None:
        """Write the signal to the pipe as well: a library's event loop may have replaced the wakeup descriptor."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, bytes([number]))

    def _watch(self) -> None:
        while byte := os.read(self._reader, 1):
            if byte[0] in NAMES:
                self._hear(signal.Signals(byte[0]))

    def _hear(self, number: signal.Signals) -> None:
        handler = signal.getsignal(number)
        if handler is self:
            self._end(number)
        elif hasattr(handler, "saving"):
            if number == signal.SIGTERM:
                threading.Thread(target=self._end_overdue, args=(handler,), daemon=True).start()
            elif handler in self._waiting:
                self._end(number)
            else:
                self._waiting.append(handler)
        elif getattr(handler, "reads_input", False):
            # A signal that arrives just before the main thread begins to wait leaves it waiting, and the handler runs
            # only after the line. A second signal, which finds it waiting, ends that.
            time.sleep(READ_SECONDS)
            if handler.reads_input:
                signal.pthread_kill(threading.main_thread().ident, number)

    def _end_overdue(self, handler: object) -> None:
        time.sleep(TERM_SECONDS)
        if not handler.saving:
            self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> NoReturn:
        flushing = threading.Thread(target=self._finish, daemon=True)
        flushing.start()
        flushing.join(FLUSH_SECONDS)
        # The interrupted code may hold the stream, so the line goes to the descriptor. The pipe may be closed.
        with contextlib.suppress(OSError):
            os.write(2, f"jaxforget: {NAMES[number]}{self.resumable}\n".encode())
        os._exit(128 + number)

    def _finish(self) -> None:
        with contextlib.suppress(OSError):
            self.last()
            sys.stdout.flush()
