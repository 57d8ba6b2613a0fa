"""Training of the demo's toy models from scratch.

Only the optimiser belongs to the demo; blocks, step, loop and checkpoints are the pipeline's.
"""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxforget.models.config import ModelConfig
from jaxforget.models.export import save_params
from jaxforget.models.tokenizer import load_tokenizer
from jaxforget.models.transformer import Transformer
from jaxforget.stages.card import plain_card
from jaxforget.stages.fit import Training, batches_from, fit, load_student, save
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage
from jaxforget.train.objectives import NextToken
from jaxforget.train.step import StepOptions, make_step
from jaxforget.train.types import Forward, Frozen, TrainState

# Found by trial for a million parameters and half a million tokens, each seen one and a half times. A token's own
# vectors are trained only by its few occurrences, so they need a higher rate than the layers, which every token trains.
STEPS = 750
BATCH = 8
LEARNING_RATE = 2e-3
VECTOR_RATE = 5.0
WARMUP = 40
CLIP = 1.0


def make_init(folder: Path, tokenizer_folder: Path, shape: dict[str, Any], seed: int) -> None:
    """Write a Llama with random weights and the world's tokenizer."""
    tokenizer = load_tokenizer(tokenizer_folder)
    config = ModelConfig(
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, **shape
    )
    params = jax.jit(lambda: Transformer(config).init(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))["params"])()
    save_params(folder, params, config, None, tokenizer, dtype="float32", model_card="# A toy Llama, random weights\n")


def _pretrain(run: Run, fingerprint: str, *, folder: Path) -> None:
    student = load_student(run)
    schedule = optax.warmup_cosine_decay_schedule(0.0, LEARNING_RATE, WARMUP, STEPS, 0.02 * LEARNING_RATE)
    optimizer = optax.chain(
        optax.clip_by_global_norm(CLIP),
        optax.scale_by_adam(0.9, 0.98),
        optax.stateless(_faster_vectors),
        optax.scale_by_learning_rate(schedule),
    )

    def step(forward: Forward, optimizer: Any, mesh: Mesh, shardings: TrainState) -> Any:
        return make_step(forward, optimizer, NextToken(), StepOptions(run.config.targets.tile), mesh, shardings)

    batches = partial(batches_from, run, batch=BATCH)
    training = Training("pretrain", fingerprint, student, Frozen(), STEPS, schedule, optimizer, step, batches)
    params, _ = fit(run, training)
    save(run, folder, student, params, plain_card(f"a toy Llama trained {STEPS} steps from scratch", "random weights"))


def _faster_vectors(updates: Any, params: Any) -> Any:
    """Return `updates` with those of the tokens' own vectors multiplied by `VECTOR_RATE`."""
    del params
    return {
        name: jax.tree.map(lambda u: u * VECTOR_RATE, leaf) if name in ("embed", "lm_head") else leaf
        for name, leaf in updates.items()
    }


def pretrain_stage(folder: Path) -> Stage:
    """Return the stage that trains a run's base, which has random weights, on its text and writes it to `folder`."""
    return Stage(
        "pretrain",
        lambda run: Needs(
            ("prepare",),
            files={"init": run.base},
            values={"recipe": repr((STEPS, BATCH, LEARNING_RATE, VECTOR_RATE, WARMUP, CLIP))},
        ),
        partial(_pretrain, folder=folder),
        lambda run: [folder / "config.json"],
        trains=True,
    )
