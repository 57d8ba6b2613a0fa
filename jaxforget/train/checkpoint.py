"""Checkpoints of the training state, by orbax. No other module uses orbax.

Saving is asynchronous. A checkpoint that was unfinished when the process ended is ignored. The position in the data is
the step, because batch k is a pure function of the seed and k. The fingerprint is built in `stages/stage.py`.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxforget.errors import UserError
from jaxforget.files import find_difference, hash_files, write_json
from jaxforget.processes import wait_for_all
from jaxforget.train.types import TrainState

FINGERPRINT = "fingerprint.json"
SEAL = "sha256.json"
LOWER_IS_BETTER = {"familiarity": True, "perplexity": True, "retained": False}


class Checkpoints:
    """The checkpoints of one stage; checkpoints with another fingerprint are discarded.

    Args:
      folder: local folder of the checkpoints.
      fingerprint: digest of all inputs of the stage, so that a state of other inputs is never continued.
      keep: number of latest checkpoints to keep.
      select: metric whose best checkpoint is also kept, or "last".

    Attributes:
      discarded: the latest step of the discarded checkpoints; None if there were none.
    """

    def __init__(self, folder: Path, fingerprint: str, *, keep: int, select: str):
        # Orbax accepts only absolute paths.
        folder = folder.resolve()
        self._select, self._folder = select, folder
        path = folder / FINGERPRINT
        self.discarded: int | None = None
        if jax.process_index() == 0 and not _matches(path, fingerprint):
            self.discarded = max((int(p.name) for p in (folder / "steps").glob("*") if p.name.isdigit()), default=None)
            discard(folder)
            write_json(path, {"fingerprint": fingerprint})
        self._removed: list[str] = []
        if jax.process_index() == 0 and select != "last":
            self._removed = _drop_misread(folder / "steps")
        wait_for_all("checkpoints")
        policies = [ocp.checkpoint_managers.LatestN(keep)]
        if select != "last":
            policies.append(ocp.checkpoint_managers.BestN(get_metric_fn=self._score, n=1))
        options = ocp.CheckpointManagerOptions(
            # Called when all processes have written, before orbax renames the checkpoint to its final name.
            async_options=ocp.options.AsyncOptions(post_finalization_callback=self._seal),
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            # The policy decides which checkpoints stay, but orbax writes metrics only if best_fn is set.
            best_fn=None if select == "last" else self._score,
            enable_async_checkpointing=True,
            # An unfinished save of a killed process is as large as a checkpoint, and nothing else removes it.
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(folder / "steps", options=options)

    def _score(self, metrics: dict[str, float]) -> float:
        value = metrics.get(self._select)
        if value is None or math.isnan(value):
            return float("-inf")
        return -value if LOWER_IS_BETTER[self._select] else value

    def latest(self) -> int | None:
        """Return the step of the latest finished checkpoint; None if there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Return the step of the selected checkpoint: the latest, or the one with the best metric."""
        if self._select == "last":
            return self.latest()
        self.wait()  # metrics can be read only after their save is finished
        measured = {step: self._score(self._manager.metrics(step) or {}) for step in self._manager.all_steps()}
        # Of equal checkpoints the later one is chosen, because it is trained longer.
        return max(measured, key=lambda step: (measured[step], step), default=None)

    def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Start saving `state`. It is copied before this returns, so its buffers may be donated."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics or {})

    def restore(self, step: int, like: Any) -> TrainState:
        """Return the state of `step`.

        Args:
          step: step of a finished checkpoint.
          like: tree of `ShapeDtypeStruct`s with the shardings of the result; the number of devices may differ from that
            of the saved state.

        Raises:
          UserError: a file of the checkpoint is damaged or gone.
        """
        if fault := self._fault(step):
            raise UserError(f"{fault}; remove {self._folder}, and run the same command: the stage starts over")
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def drop_damaged(self, *, best: bool = False, but: int | None = None) -> list[str]:
        """Remove the latest checkpoints that are damaged, until one is whole; return one line for each.

        Args:
          best: look at the selected checkpoints in place of the latest ones.
          but: a step that is not read, because its state is in memory or was read before.
        """
        lines, choose = self._removed, self.best if best else self.latest
        self._removed = []
        while (step := choose()) not in (None, but) and (fault := self._fault(step)):
            self._manager.delete(step)
            lines.append(f"{fault}; it is removed")
        return lines

    def _seal(self) -> None:
        """Write size and hash of every file of the checkpoint that is being saved, beside them."""
        if jax.process_index() == 0:
            for folder in (self._folder / "steps").glob("*.orbax-checkpoint-tmp*"):
                write_json(folder / SEAL, hash_files(_sealed(folder), folder))

    def _fault(self, step: int) -> str | None:
        """Return the file of the checkpoint that is not as it was saved and how it differs, or None."""
        fault = None
        if jax.process_index() == 0:
            fault = find_damage(self._folder / "steps" / str(step))
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            damaged = bool(multihost_utils.broadcast_one_to_all(np.asarray(fault is not None)))
            fault = (fault or f"{self._folder}: the checkpoint of step {step} is damaged") if damaged else None
        return fault

    def wait(self) -> None:
        """Wait until every started save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for all saves and stop orbax's threads."""
        self._manager.close()


def saved_step(folder: Path, fingerprint: str) -> int:
    """Return the latest step that a stage of this fingerprint saved in `folder`; 0 if there is none.

    No file is read for damage, which takes minutes at 7B, so the stage may resume from an earlier step.
    """
    if not _matches(folder / FINGERPRINT, fingerprint):
        return 0
    return max((int(path.name) for path in (folder / "steps").glob("*") if path.name.isdigit()), default=0)


def discard(folder: Path) -> None:
    """Remove a stage's checkpoints, if there are any."""
    # The fingerprint is removed first, so that a partly removed folder is never used.
    (folder / FINGERPRINT).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def find_damage(folder: Path, below: str = "") -> str | None:
    """Return one line about a file of a checkpoint that is not as it was saved, or None.

    Args:
      folder: the checkpoint.
      below: read only the files whose names in `folder` begin so.
    """
    try:
        saved = json.loads((folder / SEAL).read_text())
        return find_difference({name: entry for name, entry in saved.items() if name.startswith(below)}, folder)
    except (OSError, ValueError, AttributeError):
        return f"{folder / SEAL}: cannot be read"


def _drop_misread(steps: Path) -> list[str]:
    """Remove the checkpoints whose measures are damaged, and return one line for each.

    Orbax reads the measures of all checkpoints: damaged ones would raise there, or select another checkpoint unseen.
    """
    lines = []
    for folder in sorted(steps.glob("*")):
        if folder.name.isdigit() and (fault := find_damage(folder, "metrics/")):
            shutil.rmtree(folder)
            lines.append(f"{fault}; its checkpoint is removed")
    return lines


def _sealed(folder: Path) -> list[Path]:
    # Orbax rewrites its own record of a checkpoint later.
    return [path for path in folder.rglob("*") if path.is_file() and path.name not in (SEAL, "_CHECKPOINT_METADATA")]


def _matches(path: Path, fingerprint: str) -> bool:
    # An unreadable file counts as a mismatch, so that its checkpoints are discarded.
    try:
        return json.loads(path.read_text()) == {"fingerprint": fingerprint}
    except (OSError, ValueError):
        return False
