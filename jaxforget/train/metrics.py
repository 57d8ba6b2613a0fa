"""Where a run's numbers go: JSON lines always, TensorBoard always, a progress bar on a terminal."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

TELL_EVERY = 30  # seconds between lines where there is no terminal for a progress bar: a log should show life


class MetricsLog:
    """Writes one record a step. Opening it at a step drops what an interrupted attempt logged after that step.

    On a process other than the first (`active` false) it writes nothing.
    """

    def __init__(self, run: Path, stage: str, *, first_step: int, total_steps: int, active: bool):
        self._stage, self._active = stage, active
        if not active:
            return
        # Imported here: it costs half a second that `--help` and the other processes need not pay.
        from tensorboardX import SummaryWriter

        path = run / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        # An attempt from the very start measures step 0 again; a later one goes on after `first_step`.
        fresh = first_step + 1 if first_step else 0
        keep_records(path, lambda record: record["stage"] != stage or record["step"] < fresh)
        self._file = path.open("a", encoding="utf-8")
        # purge_step hides the steps that are about to be written again.
        self._board = SummaryWriter(str(run / "tensorboard" / stage), purge_step=fresh, flush_secs=10)
        self._total, self._told = total_steps, time.monotonic()
        self._first_step, self._began = first_step, self._told
        self._bar = tqdm(
            total=total_steps, initial=first_step, desc=stage, unit="step", disable=not sys.stderr.isatty()
        )

    def write(self, step: int, values: dict[str, Any], *, kind: str = "train") -> None:
        """Records `values` of the `step`-th step (1 = after the first update); kind "eval" sets evaluations apart."""
        if not self._active:
            return
        record = {"stage": self._stage, "step": step, "kind": kind, **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        if kind == "train":
            self._bar.update(step - self._bar.n)
            losses = " ".join(f"{k} {v:.4g}" for k, v in values.items() if "loss" in k)
            self._bar.set_postfix_str(losses)
            if self._bar.disable and time.monotonic() - self._told >= TELL_EVERY:
                self._told = time.monotonic()
                rate = f", {values['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in values else ""
                each = (self._told - self._began) / max(step - self._first_step, 1)
                left = _duration(each * (self._total - step))
                print(f"  step {step} of {self._total}: {losses}{rate}, {left} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flushes everything to disk."""
        if self._active:
            self._file.close()
            self._board.close()
            self._bar.close()


def _duration(seconds: float) -> str:
    """Return a duration to the precision that an estimate has: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl; a half-written last line, left by a killed process, is not one."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def keep_records(path: Path, wanted: Any) -> None:
    """Rewrites a metrics.jsonl with the records for which `wanted(record)` holds."""
    if path.is_file():
        partial = path.with_name(f".{path.name}.partial")
        kept = [record for record in read_records(path) if wanted(record)]
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(partial, path)
