"""Seconds of each stage, summed over the attempts of an interrupted run."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from jaxforget.files import read_json, write_json
from jaxforget.train.metrics import duration

EVERY = 20.0  # seconds between saves, so that a killed run loses no more of its time
TELLING = 600.0  # seconds of finished stages from which on they tell the pace of the machine


class Times:
    """Seconds of each stage.

    Args:
      path: JSON file that holds them between attempts.
      typical: seconds of each stage on two quiet CPU cores, in the order of the run.
    """

    def __init__(self, path: Path, typical: Mapping[str, float]):
        self._path, self._typical = path, typical
        self.seconds: dict[str, float] = read_json(path) if path.is_file() else {}
        self._done: set[str] = set()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Add the time of the enclosed code to `stage`."""
        total, last, ended = self.seconds.get(stage, 0.0), time.perf_counter(), threading.Event()

        def save() -> None:
            nonlocal total, last
            now = time.perf_counter()
            # A longer gap is a suspension (SIGSTOP, a laptop that slept), in which nothing was computed.
            total, last = total + min(now - last, 3 * EVERY), now
            self.seconds[stage] = round(total, 1)
            write_json(self._path, self.seconds)

        def keep_saving() -> None:
            while not ended.wait(EVERY):
                save()

        names = list(self._typical)
        place = f"{names.index(stage) + 1} of {len(names)}" if stage in names else "extra"
        print(f"== {place}: {stage}, {self._left()}", file=sys.stderr, flush=True)
        saver = threading.Thread(target=keep_saving, daemon=True)
        saver.start()
        try:
            yield
            self._done.add(stage)
        finally:
            ended.set()
            saver.join()
            save()

    def _left(self) -> str:
        """Return the expected time of all stages that are not done, by the pace of those that are."""
        expected = sum(self._typical[name] for name in self._done if name in self._typical)
        took = sum(self.seconds[name] for name in self._done if name in self._typical)
        # Downloads say nothing about the pace of training.
        pace = took / expected if expected > TELLING else 1.0
        left = 0.0
        for name, typical in self._typical.items():
            if name not in self._done:
                left += max(pace * typical - self.seconds.get(name, 0.0), 0.0)
        return f"about {duration(left)} left"
