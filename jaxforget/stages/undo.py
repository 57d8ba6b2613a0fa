"""Stage `undo`: adds noise to the unlearned weights and distils the unlearned model on the text to keep.

Noise removes what unlearning only hid; the distillation restores what the unlearned model says (UNDO, 2506.06278).
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from jaxforget.lm.forward import configured_module
from jaxforget.lm.model import Model, load, materialize
from jaxforget.stages.card import model_card
from jaxforget.stages.fit import batches_from, configured_training, fit, save
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage
from jaxforget.train.noise import perturb
from jaxforget.train.types import Frozen


def needs(run: Run) -> Needs:
    """Return the inputs: the blocks of the text to keep, and the model that the stage forget wrote."""
    return Needs(("prepare", "forget"), models={"model before undo": run.forgotten})


def undo(run: Run, fingerprint: str) -> None:
    """Add noise to every weight of the unlearned model, then train it towards that model on the text to keep.

    An adapter is merged first, because the noise is on every weight. Writes undone/.

    Args:
      run: the run.
      fingerprint: digest of the stage's inputs; checkpoints with another one are discarded.
    """
    config = run.config
    model = config.model
    frozen = Frozen(base=materialize(load(run.forgotten, model.dtype, run.mesh, attention=model.attention)).params)
    student = perturbed_student(run)

    def batches(start: int) -> Iterator[dict[str, np.ndarray]]:
        with contextlib.closing(batches_from(run, start, batch=config.undo.batch, blocks=run.retain_blocks)) as rows:
            for batch in rows:
                # Retained rows are marked, and a marked row has no forget loss; here it has the only one.
                yield {name: array for name, array in batch.items() if name != "retain"}

    params, step = fit(run, configured_training(run, "undo", fingerprint, student, frozen, batches))
    save(run, run.unlearned, student, params, model_card(config, f"unlearned by {config.method}, {step} steps of undo"))


def perturbed_student(run: Run) -> Model:
    """Return the unlearned model with noise on its weights, fp32 and whole: the student before its first step."""
    config = run.config
    before = materialize(load(run.forgotten, "float32", run.mesh))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, before.params)
    noisy = jax.jit(
        partial(perturb, alpha=config.undo.alpha, beta=config.undo.beta), donate_argnums=0, out_shardings=shardings
    )(before.params, key=jax.random.key(config.seed))
    module = configured_module(config.model, before.config, run.mesh)
    # An adapter's folder has no tokenizer to copy.
    return dataclasses.replace(before, params=noisy, module=module, folder=run.base)


STAGE = Stage("undo", needs, undo, lambda run: [run.unlearned / "config.json"], trains=True, keeps=True)
