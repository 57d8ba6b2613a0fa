"""What a configuration makes of a step: the one place where the stages that run it and the plan that only compiles it
get optimiser, options, shardings and the compiled function from."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxforget.config import Config, TrainOptions
from jaxforget.lm.forward import param_shapes
from jaxforget.models.config import ModelConfig
from jaxforget.models.weights import adapter_shapes
from jaxforget.train.optimizer import linear_schedule, make_optimizer
from jaxforget.train.step import StepOptions, make_forget_step, make_reinforce_step, state_shardings
from jaxforget.train.types import Forward, Params, TrainState


def make_adamw(options: TrainOptions, steps: int) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The schedule and optimiser that a training stage's options describe."""
    schedule = linear_schedule(options.learning_rate, options.warmup_steps, steps)
    return schedule, make_optimizer(
        schedule,
        b1=options.b1,
        b2=options.b2,
        eps=options.eps,
        weight_decay=options.weight_decay,
        clip_norm=options.clip_norm,
        moment_dtype=options.moment_dtype,
    )


def trained_shapes(config: Config, weights: str, llama: ModelConfig) -> Params:
    """What trains of a Llama under the option `weights` ("full" or "lora"), as fp32 `ShapeDtypeStruct`s."""
    if weights == "lora":
        return adapter_shapes(llama, config.lora.rank, config.lora.alpha)
    return param_shapes(llama, jnp.float32)


def student_shardings(
    config: Config, shapes: Params, where: Any, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Shardings of the state of a student of which `shapes` train, lying as `where` says."""
    # A bf16 forward pass reads the upper halves of fp32 weights: no second copy, and gradients half the size.
    halves = config.model.dtype == "bfloat16"
    return state_shardings(shapes, where, optimizer, mesh, halves=halves)


def teachers_used(config: Config) -> tuple[bool, bool]:
    """Whether the forget step is given base, and whether it is given the reinforced model."""
    cached = config.targets.cache
    return not cached or config.retain.weight > 0 or config.forget.weights == "lora", not cached


def step_options(config: Config, stage: str) -> StepOptions:
    """The static options of the step of `stage`, "reinforce" or "forget"."""
    accumulate = getattr(config, stage).accumulate
    if stage == "reinforce":
        return StepOptions(tile=config.targets.tile, accumulate=accumulate)
    return StepOptions(
        tile=config.targets.tile,
        accumulate=accumulate,
        alpha=config.targets.alpha,
        soft=config.targets.kind == "soft",
        retain_weight=config.retain.weight,
        cached=config.targets.cache,
    )


def make_training_step(
    config: Config,
    stage: str,
    forward: Forward,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
) -> Callable:
    """The compiled step: of "reinforce" `(state, batch, base)`, of "forget" `(state, frozen, batch)`; each gives
    `(state, metrics)`. base: None unless an adapter over it trains."""
    make = make_reinforce_step if stage == "reinforce" else make_forget_step
    return make(forward, optimizer, step_options(config, stage), mesh, shardings)
