"""Generic labels outside the training step: cached beforehand (targets.cache), and the share that names the target."""

from typing import Any

import jax
import numpy as np

from jaxforget.corpus.batches import read_all, read_summary
from jaxforget.files import atomic_folder, find_difference, hash_files, read_json, write_json
from jaxforget.lm.forward import configured_module, make_forward
from jaxforget.lm.model import Model
from jaxforget.manifest import fingerprint
from jaxforget.processes import fetch, wait_for_all
from jaxforget.sharding import put_rows
from jaxforget.stages.build import step_options
from jaxforget.stages.frozen_models import load_reinforced
from jaxforget.stages.hashes import hash_model
from jaxforget.stages.run import Run
from jaxforget.train.objectives import Objective
from jaxforget.train.objectives.whp import EquationOne
from jaxforget.train.step import make_label_step
from jaxforget.train.types import Frozen, Params

SAMPLE = 64  # blocks whose labels are counted
DOUBTFUL = 0.01  # share of labels that begin an anchor, from which on a warning is said


def cached_labels(run: Run, base: Model) -> np.ndarray:
    """Return the generic labels of every training block, int32 [blocks, S]; they are computed once, into labels/."""
    folder = run.folder / "labels"
    note = folder / "labels.json"
    inputs = _label_inputs(run)
    print_of_inputs = fingerprint(inputs)
    noted = read_json(note) if note.is_file() else {}
    if fault := find_difference(noted.get("files", {}), folder):
        run.say(f"  warning: {fault}; the labels are computed again")
    if fault or noted.get("fingerprint") != print_of_inputs:
        count = read_summary(run.blocks)["splits"]["train"]
        labels = compute_labels(run, base, load_reinforced(run, base), count)
        if jax.process_index() == 0:
            with atomic_folder(folder) as partial:
                np.save(partial / "train.npy", labels)
                files = hash_files([partial / "train.npy"], partial)
                note_of_labels = {"fingerprint": print_of_inputs, "blocks": count, "inputs": inputs, "files": files}
                write_json(partial / "labels.json", note_of_labels)
        wait_for_all("labels")
        run.say(f"  labels of {count:,} blocks are computed and cached")
    return np.load(folder / "train.npy", mmap_mode="r")


def compute_labels(run: Run, base: Model, reinforced: Params, count: int) -> np.ndarray:
    """Return the generic labels of the first `count` training blocks, int32 [count, S]; -1 where none is trained.

    `reinforced` is None for targets without a reinforced model.
    """
    config = run.config
    module = configured_module(config.model, base.config, run.mesh)
    label_step = make_label_step(make_forward(module), label_objective(run), step_options(config, "forget"), run.mesh)
    frozen = Frozen(base=base.params, reinforced=reinforced)
    rows = config.forget.batch + config.retain.rows
    found: list[np.ndarray] = []
    # In batches of the step's own size, so that the same program rounds the same way.
    for batch in read_all(run.blocks, "train", rows):
        if len(found) * rows >= count:
            break
        found.append(fetch(label_step(frozen, put_rows(batch, run.mesh))))
    return np.concatenate(found)[:count]


def label_objective(run: Run) -> Objective:
    """Return the objective whose generic labels the run computes; equation 1 where its method has none."""
    objective = run.objective if run.objective.generic_targets else EquationOne(alpha=run.config.targets.alpha)
    return objective.prepared(read_summary(run.blocks))


def label_share(labels: np.ndarray, summary: dict[str, Any]) -> tuple[int, int]:
    """Return how many labels begin an anchor, and how many there are.

    Args:
      labels: int32 [blocks, S]; -1 where there is none.
      summary: blocks.json, with the first tokens of all anchors.
    """
    real = labels[labels >= 0]
    return int(np.isin(real, summary["anchor_first_tokens"]).sum()), len(real)


def say_label_share(run: Run, labels: np.ndarray) -> None:
    """Say the share of labels that begin an anchor, and record it in evals/labels.json.

    A target that names the text teaches it: the dictionary misses names, or base knows the text by heart.
    """
    anchors, count = label_share(labels, read_summary(run.blocks))
    share = anchors / max(count, 1)
    run.say(f"  {anchors:,} of {count:,} labels begin an anchor ({share:.1%})")
    if share >= DOUBTFUL:
        run.say("  warning: labels that name the text teach it; set targets.suppress=all, or review the dictionary")
    if jax.process_index() == 0:
        write_json(run.evals / "labels.json", {"begin_anchor": anchors, "labels": count, "share": share})


def _label_inputs(run: Run) -> dict[str, str]:
    """Return all that a label depends on: text, models and their forms, equation 1, and the rows of a batch."""
    config = run.config
    stages = {name: run.manifest.stage(name)["fingerprint"] for name in ("prepare", "reinforce")}
    return stages | {
        "model.folder": hash_model(run, run.base),
        "model.dtype": config.model.dtype,
        "model.base": config.model.base,
        "reinforce.weights": config.reinforce.weights,
        "targets.alpha": repr(config.targets.alpha),
        # Methods and targets.suppress differ in the tokens that no label may name.
        "never": repr(label_objective(run).never),
        "rows": str(config.forget.batch + config.retain.rows),
    }
