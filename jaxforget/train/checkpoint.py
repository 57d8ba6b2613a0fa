"""Checkpoints by orbax: what trains and how far it came. The only module that knows orbax.

Saving is asynchronous; a checkpoint that was not finished when the process died does not exist for the next one. The
data position is the step: batch k is a pure function of the seed and k.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxforget.files import write_json
from jaxforget.train.types import TrainState

MARK = "fingerprint.json"
LOWER_IS_BETTER = {"familiarity": True, "perplexity": True, "retained": False}


class Checkpoints:
    """The checkpoints of one stage in `folder`, made for one `fingerprint`; those of another are discarded.

    Args:
      folder: local path.
      fingerprint: of everything the stage depends on: a state trained from other inputs is never continued.
      keep: how many of the latest to keep.
      select: the metric whose best checkpoint is kept too, or "last".

    Attributes:
      discarded: the latest step among those that were discarded; None where there were none.
    """

    def __init__(self, folder: Path, fingerprint: str, *, keep: int, select: str):
        # Orbax takes absolute paths only.
        folder = folder.resolve()
        self._select, self._folder = select, folder
        mark = folder / MARK
        self.discarded: int | None = None
        if jax.process_index() == 0 and not _marked(mark, fingerprint):
            self.discarded = max((int(p.name) for p in (folder / "steps").glob("*") if p.name.isdigit()), default=None)
            discard(folder)
            write_json(mark, {"fingerprint": fingerprint})
        if jax.process_count() > 1:
            from jax.experimental import multihost_utils

            multihost_utils.sync_global_devices("checkpoints")
        policies = [ocp.checkpoint_managers.LatestN(keep)]
        if select != "last":
            policies.append(ocp.checkpoint_managers.BestN(get_metric_fn=self._score, n=1))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=ocp.checkpoint_managers.AnyPreservationPolicy(policies),
            # The policy alone decides what stays; but without a best_fn orbax does not write metrics at all.
            best_fn=None if select == "last" else self._score,
            enable_async_checkpointing=True,
            # What a killed process left half-written: as large as a checkpoint, and nothing else removes it.
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(folder / "steps", options=options)

    def _score(self, metrics: dict[str, float]) -> float:
        value = metrics.get(self._select)
        if value is None or math.isnan(value):
            return float("-inf")
        return -value if LOWER_IS_BETTER[self._select] else value

    def latest(self) -> int | None:
        """The step of the latest finished checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step of the selected checkpoint: the latest, or the best that was measured."""
        if self._select == "last":
            return self.latest()
        self.wait()  # Until a save is on disk its metrics are not.
        measured = {step: self._score(self._manager.metrics(step) or {}) for step in self._manager.all_steps()}
        # Ties go to the later step: it has seen more.
        return max(measured, key=lambda step: (measured[step], step), default=None)

    def save(self, step: int, state: TrainState, metrics: dict[str, float] | None = None) -> None:
        """Starts saving `state`; copies it out of the donated buffers before it returns."""
        if step not in self._manager.all_steps():
            self._manager.save(step, args=ocp.args.StandardSave(state), metrics=metrics or {})

    def restore(self, step: int, like: Any) -> TrainState:
        """The state of `step`, on the devices and shardings of `like` (`ShapeDtypeStruct`s): any number of devices."""
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))

    def wait(self) -> None:
        """Blocks until every started save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and stops orbax's threads."""
        self._manager.close()


def discard(folder: Path) -> None:
    """Removes a stage's checkpoints, if there are any."""
    # The mark first: a folder half removed must not pass for whole.
    (folder / MARK).unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


def _marked(mark: Path, fingerprint: str) -> bool:
    # A mark that cannot be read was never finished.
    try:
        return json.loads(mark.read_text()) == {"fingerprint": fingerprint}
    except (OSError, ValueError):
        return False
