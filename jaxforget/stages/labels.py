"""Cached generic labels: computed once for all training blocks, before there is a student (targets.cache)."""

import dataclasses

import jax
import numpy as np

from jaxforget.corpus.loader import read_all, read_summary
from jaxforget.files import atomic_folder, read_json, write_json
from jaxforget.lm.forward import configured_module, make_forward
from jaxforget.lm.model import Model
from jaxforget.manifest import fingerprint
from jaxforget.sharding import put_rows
from jaxforget.stages.build import make_objective, step_options
from jaxforget.stages.frozen import load_reinforced
from jaxforget.stages.hashes import hash_model
from jaxforget.stages.run import Run, fetch, wait_for_all
from jaxforget.train.step import make_label_step
from jaxforget.train.types import Frozen


def cached_labels(run: Run, base: Model) -> np.ndarray:
    """Generic labels of every training block, int32 [blocks, S]; made once, stored in labels/."""
    config = run.config
    folder = run.folder / "labels"
    note = folder / "labels.json"
    inputs = _label_inputs(run)
    mark = fingerprint(inputs)
    if not note.is_file() or read_json(note)["fingerprint"] != mark:
        module = configured_module(config.model, base.config, run.mesh)
        objective = dataclasses.replace(make_objective(config), cached=False)
        label_step = make_label_step(make_forward(module), objective, step_options(config, "forget"), run.mesh)
        frozen = Frozen(base=base.params, reinforced=load_reinforced(run, base))
        # In batches of the step's own size, so that the same program rounds the same way.
        batches = read_all(run.blocks, "train", config.forget.batch + config.retain.rows)
        found = [fetch(label_step(frozen, put_rows(batch, run.mesh))) for batch in batches]
        count = read_summary(run.blocks)["splits"]["train"]
        if jax.process_index() == 0:
            with atomic_folder(folder) as partial:
                np.save(partial / "train.npy", np.concatenate(found)[:count])
                write_json(partial / "labels.json", {"fingerprint": mark, "blocks": count, "inputs": inputs})
        wait_for_all("labels")
        run.say(f"  {count:,} blocks labelled once")
    return np.load(folder / "train.npy", mmap_mode="r")


def _label_inputs(run: Run) -> dict[str, str]:
    """All that a label depends on: text, models and how they are held, equation 1, and the rows computed together."""
    config = run.config
    stages = {name: run.manifest.stage(name)["fingerprint"] for name in ("prepare", "reinforce")}
    return stages | {
        "model.folder": hash_model(run, run.base),
        "model.dtype": config.model.dtype,
        "model.base": config.model.base,
        "reinforce.weights": config.reinforce.weights,
        "targets.alpha": repr(config.targets.alpha),
        "rows": str(config.forget.batch + config.retain.rows),
    }
