"""The log of a run: metrics.jsonl, TensorBoard, Weights & Biases, and a progress bar on a terminal."""

import importlib
import json
import os
import secrets
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

from jaxforget.errors import UserError, first_line

PRINT_EVERY = 30  # seconds between lines of progress if there is no terminal for a progress bar


class MetricsLog:
    """Log of one stage, with a record for each step.

    Args:
      run: the run's folder.
      stage: name of the stage.
      first_step: last step that is done; records of an interrupted attempt after it are removed.
      total_steps: last step of the stage.
      active: False writes nothing, for all processes but the first.
      wandb: project of Weights & Biases that also receives the metrics; None for none.
      settings: options of the run, which Weights & Biases shows beside the metrics.

    Raises:
      UserError: `wandb` is set, and the package is missing or cannot start.
    """

    def __init__(
        self,
        run: Path,
        stage: str,
        *,
        first_step: int,
        total_steps: int,
        active: bool,
        wandb: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self._stage, self._active = stage, active
        if not active:
            return
        self._remote = _start_wandb(wandb, run, stage, settings, resumed=first_step > 0) if wandb else None
        # Imported here because the import takes half a second.
        from tensorboardX import SummaryWriter

        path = run / "metrics.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        # An attempt from the beginning measures step 0 again; a later one continues after `first_step`.
        fresh = first_step + 1 if first_step else 0
        keep_records(path, lambda record: record["stage"] != stage or record["step"] < fresh)
        self._file = path.open("a", encoding="utf-8")
        # purge_step hides the steps that will be written again.
        self._board = SummaryWriter(str(run / "tensorboard" / stage), purge_step=fresh, flush_secs=10)
        self._total, self._printed = total_steps, time.monotonic()
        self._first_step, self._began = first_step, self._printed
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            desc=stage,
            unit="step",
            disable=not sys.stderr.isatty(),
            ncols=min(80, shutil.get_terminal_size().columns),
        )

    def write(self, step: int, values: dict[str, Any], *, kind: str = "train") -> None:
        """Write one record.

        Args:
          step: number of the step; 1 is after the first update.
          values: name -> value.
          kind: "train" or "eval".
        """
        if not self._active:
            return
        record = {"stage": self._stage, "step": step, "kind": kind, **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{kind}/{name}", value, step)
        if self._remote is not None:
            self._remote.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)
        if kind == "train":
            self._bar.update(step - self._bar.n)
            losses = " ".join(f"{k} {v:.4g}" for k, v in values.items() if "loss" in k)
            self._bar.set_postfix_str(losses)
            if self._bar.disable and time.monotonic() - self._printed >= PRINT_EVERY:
                self._printed = time.monotonic()
                rate = f", {values['tokens_per_second']:,.0f} tokens/s" if "tokens_per_second" in values else ""
                each = (self._printed - self._began) / max(step - self._first_step, 1)
                left = duration(each * (self._total - step))
                print(f"  step {step} of {self._total}: {losses}{rate}, {left} left", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Flush everything to disk."""
        if self._active:
            self._file.close()
            self._board.close()
            self._bar.close()
            if self._remote is not None:
                self._remote.finish()


def import_wandb() -> ModuleType:
    """Return the package wandb.

    Raises:
      UserError: it cannot be imported.
    """
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        fault = first_line(error)
        raise UserError(f"log.wandb is set, but wandb does not import ({fault}); run pip install wandb") from None


def _start_wandb(project: str, run: Path, stage: str, settings: Mapping[str, Any] | None, *, resumed: bool) -> Any:
    """Open a stage's record on Weights & Biases; a resumed stage continues the record of its last attempt."""
    wandb = import_wandb()
    place = run / "wandb" / f"{stage}.id"
    name = place.read_text(encoding="utf-8").strip() if resumed and place.is_file() else secrets.token_hex(4)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(name, encoding="utf-8")
    try:
        return wandb.init(
            project=project,
            id=name,
            resume="allow",
            name=f"{run.resolve().name} {stage}",
            dir=str(run),
            config=dict(settings or {}),
            allow_val_change=True,
        )
    except Exception as error:  # the package's own kinds: no key, no network, a refused name
        remedy = "run wandb login, set WANDB_MODE=offline, or unset log.wandb"
        raise UserError(f"log.wandb={project}: {first_line(error)}; {remedy}") from error


def duration(seconds: float) -> str:
    """Return a duration to the precision that an estimate has: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a metrics.jsonl; an incomplete line, left by a killed process, is ignored."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def step_seconds(records: Iterable[dict[str, Any]], stage: str) -> list[float]:
    """Return the seconds of every timed step of a training stage; the first step, which compiles, is not timed."""
    return [
        (record["tokens"] + record.get("retain_tokens", 0)) / record["tokens_per_second"]
        for record in records
        if record["stage"] == stage and record.get("tokens_per_second")
    ]


def keep_records(path: Path, wanted: Any) -> None:
    """Rewrite a metrics.jsonl with the records for which `wanted(record)` is true."""
    if path.is_file():
        partial = path.with_name(f".{path.name}.partial")
        kept = [record for record in read_records(path) if wanted(record)]
        partial.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(partial, path)
