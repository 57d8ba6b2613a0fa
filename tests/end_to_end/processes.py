"""Commands run as a user runs them, and stopped as machines stop them."""

import functools
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from tests.children import without_torch
from tests.compiler import xla_flags
from tests.end_to_end.forked import Server

ROOT = Path(__file__).parents[2]
TIMEOUT = 300  # seconds; on a busy machine compiling takes long


def environment(devices: int, **more: str) -> dict[str, str]:
    """Return the environment of a child with `devices` CPU devices; all children share a compilation cache."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    kept.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
    kept |= {"XLA_FLAGS": xla_flags(devices), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    return without_torch(kept | more)


@functools.cache
def server() -> Server:
    """Return the process from which this one's commands are forked."""
    return Server(environment(devices=2))


class Command:
    """A running `jaxforget ...`; its lines on standard error are collected as they come."""

    started: ClassVar[list["Command"]] = []

    def __init__(self, *words: object, devices: int = 2, code: str = "", **more: str):
        self.process = server().fork([*map(str, words)], environment(devices, **more), code)
        self.started.append(self)
        self.lines: list[str] = []
        self.out: list[str] = []
        self._threads = [
            threading.Thread(target=lambda: self.lines.extend(line.rstrip("\n") for line in self.process.stderr)),
            threading.Thread(target=lambda: self.out.extend(self.process.stdout)),
        ]
        for thread in self._threads:
            thread.start()

    def wait(self) -> int:
        """Its exit status, when it has ended; negative for a signal."""
        try:
            status = self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(2)
            self.process.kill()
            raise AssertionError(f"it did not end in {TIMEOUT} s:\n{self.told}") from None
        for thread in self._threads:
            thread.join()
        return status

    def when(self, holds: Callable[["Command"], bool]) -> "Command":
        """Returns as soon as `holds`, or when the process has ended."""
        began = time.monotonic()
        while self.process.poll() is None and not holds(self):
            assert time.monotonic() - began < TIMEOUT, self.lines
            time.sleep(0.005)
        return self

    def begins(self, stage: str) -> "Command":
        """Returns when the stage begins."""
        return self.when(lambda self: any(re.match(rf"stage \d of \d, {stage}\b", line) for line in self.lines))

    def send(self, number: int) -> int:
        """Its exit status after the signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    @property
    def told(self) -> str:
        """All of its standard error."""
        return "\n".join(self.lines)


# A process that is killed at the very moment of its n-th rename: nothing before it is undone, nothing after it happens.
DIES_AT_RENAME = """
import os, signal
replace, left = os.replace, [{number}]
def dying(*words, **more):
    left[0] -= 1
    if left[0] == {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*words, **more)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = dying
"""


def dies_at_rename(number: int, *, before: bool) -> str:
    """Code that kills its process just before, or just after, its `number`-th atomic rename."""
    return DIES_AT_RENAME.format(number=number, before=0 if before else -1)
