"""A command on a pseudo-terminal, as a person would use it."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from tests.children import without_torch

PATIENCE = 90.0  # seconds; for a machine that is busy with other work


class Terminal:
    """A running `jaxforget` command; `shown` is everything that its terminal was sent."""

    def __init__(self, *words: str | Path, columns: int = 100, rows: int = 40, **environment: str):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.shown = ""
        # A session leader that opens a terminal gets it as its own, so that Ctrl-C becomes a signal.
        shell = ["sh", "-c", 'exec <"$0" >"$0" 2>&1; exec "$@"', os.ttyname(slave)]
        self.process = subprocess.Popen(
            [*shell, sys.executable, "-m", "jaxforget", *map(str, words)],
            start_new_session=True,
            # A width in the environment, as a test runner may set it, would win over the terminal's own.
            env=without_torch(
                {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}
                | {"TERM": "xterm", **environment}
            ),
        )
        # The slave stays open here until the command has opened it: a terminal that nobody holds is hung up.
        self._slave = slave

    def expect(self, pattern: str, start: int = 0) -> re.Match[str]:
        """Read until `pattern` is found after character `start` of what was shown."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.compile(pattern, re.S).search(self.shown, start)):
            assert time.monotonic() < deadline, f"no {pattern!r} in {self.shown!r}"
            if not self._read(0.5):
                assert (found := re.compile(pattern, re.S).search(self.shown, start)), f"ended: {self.shown!r}"
                return found
        return found

    def _read(self, seconds: float) -> bool:
        """Read what there is; False once the command has ended and everything is read."""
        ended = self.process.poll() is not None
        if ended and not select.select([self._master], [], [], 0.1)[0]:
            return False
        if not select.select([self._master], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)

    def type(self, text: str) -> int:
        """Type a text, and return how much was shown before."""
        before = len(self.shown)
        os.write(self._master, text.encode())
        return before

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.type("\x03")

    def end(self) -> int:
        """Wait for the end of the command and return its status."""
        deadline = time.monotonic() + PATIENCE
        while self._read(0.2) and time.monotonic() < deadline:
            pass
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """Kill the command if it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)
