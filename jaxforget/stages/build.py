"""Training steps from a configuration: objective, optimiser, shardings and the compiled function.

The stages, which run a step, and the plan, which only compiles it, both use these functions.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxforget.config import Config, TrainOptions, value_of
from jaxforget.errors import UserError
from jaxforget.lm.forward import param_shapes
from jaxforget.models.config import ModelConfig
from jaxforget.models.weights import adapter_shapes
from jaxforget.train.objectives import Distillation, NextToken, Objective, Retain, check_settings, find_method
from jaxforget.train.optimizer import linear_schedule, make_optimizer
from jaxforget.train.state import state_shardings
from jaxforget.train.step import StepOptions, make_step
from jaxforget.train.types import Forward, Params, TrainState
from jaxforget.train.wrappers import Wrappers


def make_adamw(options: TrainOptions, steps: int) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Return the schedule and the optimiser that the options of a training stage describe."""
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


def trained_shapes(config: Config, weights: str, model_config: ModelConfig) -> Params:
    """Return the shapes of what trains under the option `weights` ("full" or "lora"), as fp32 `ShapeDtypeStruct`s."""
    if weights == "lora":
        return adapter_shapes(model_config, config.lora.rank, config.lora.alpha)
    return param_shapes(model_config, jnp.float32)


def student_shardings(
    config: Config, stage: str, shapes: Params, where: Any, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Return the shardings of a training stage's state, of which `shapes` train, sharded as `where` says."""
    # A bf16 forward pass reads the upper halves of fp32 weights: no second copy, and gradients half the size.
    halves = config.model.dtype == "bfloat16"
    constrained = stage == "forget" and make_objective(config).constrained
    return state_shardings(shapes, where, optimizer, mesh, halves=halves, constrained=constrained)


def make_objective(config: Config, stage: str = "forget") -> Objective:
    """Return the objective of a training stage, "reinforce", "forget" or "undo", with the settings of the run.

    Raises:
      UserError: an unknown method, a setting that the method lacks, a value of the wrong type or out of range.
    """
    if stage == "reinforce":
        return NextToken()
    if stage == "undo":
        return Distillation()
    kind = find_method(config.method, "method")
    # The schema holds the options that several methods share; a field of a method names the option that it takes.
    taken = {field.metadata["option"]: field.name for field in dataclasses.fields(kind) if field.metadata.get("option")}
    if config.targets.cache and not kind.cacheable:
        raise UserError(f"targets.cache: stores labels, of which method={kind.name} has none; set targets.cache=false")
    shared = {name: value_of(config, option) for option, name in taken.items()}
    objective = kind(**shared, **check_settings(kind, config.objective, "objective."))
    if config.targets.suppress == "all" and "targets.suppress" not in taken:
        raise UserError(f"targets.suppress=all: method={kind.name} has no generic targets; set targets.suppress=seen")
    if objective.translations and config.anchors.path is None and config.anchors.extractor == "none":
        raise UserError(f"method={kind.name}: translates the text; set anchors.path, or another anchors.extractor")
    if not kind.trains and (config.forget.weights != "full" or config.retain.weight):
        raise UserError(f"method={kind.name}: nothing trains; set forget.weights=full and retain.weight=0")
    if kind.needs_retain and not config.retain.weight:
        raise UserError(f"method={kind.name}: needs a retain term; set retain.path, retain.rows and retain.weight")
    return objective


def make_retain(config: Config) -> Retain | None:
    """Return the retain term of the forget stage; None where the run has none."""
    if not config.retain.weight:
        return None
    if make_objective(config).constrained and config.retain.loss != "nll":
        raise UserError(f"retain.loss={config.retain.loss}: method={config.method} bounds the nll; set retain.loss=nll")
    if config.retain.loss == "states" and not make_objective(config).on_states:
        raise UserError(f"retain.loss=states: method={config.method} has no loss on hidden states; set retain.loss=kl")
    return Retain(config.retain.weight, config.retain.loss)


def make_wrappers(config: Config) -> Wrappers:
    """Return the wrappers of the forget stage.

    Raises:
      UserError: a wrapper that has no effect under this configuration.
    """
    rho = config.forget.sam
    if rho and not make_objective(config).trains:
        raise UserError(f"forget.sam={rho:g}: method={config.method} trains nothing; set forget.sam=0")
    if rho and config.model.dtype == "bfloat16":
        raise UserError(
            f"forget.sam={rho:g}: bfloat16 rounds so small a move of the weights away; set model.dtype=float32"
        )
    penalty = config.ilu.weight
    if penalty and (config.forget.weights != "full" or not make_objective(config).trains):
        raise UserError(f"ilu.weight={penalty:g}: every weight must train; set forget.weights=full, or ilu.weight=0")
    return Wrappers(sam=rho, ilu=penalty)


@dataclasses.dataclass(frozen=True)
class Passes:
    """The models that a training step is given.

    Attributes:
      base: base's weights are an argument of the step: for a pass of its own, or under an adapter. In "undo" the
        model before the noise takes base's place.
      reinforced: the reinforced model's weights are an argument of the step.
      frozen: number of forward passes of frozen models over the rows of a step.
      trained: number of forward and backward passes of the student over the rows.
    """

    base: bool
    reinforced: bool
    frozen: int
    trained: int


def passes(config: Config, stage: str) -> Passes:
    """Return the models that the step of a training stage is given."""
    objective = make_objective(config, stage)
    retain = make_retain(config) if stage == "forget" else None
    base = objective.uses_base or (retain is not None and retain.uses_base)
    adapter = getattr(config, stage).weights == "lora"
    times = objective.trained_passes
    if stage == "forget":
        times *= make_wrappers(config).passes(retain is not None)
    return Passes(
        base=base or adapter,
        reinforced=objective.uses_reinforced,
        frozen=(base * objective.base_passes + objective.uses_reinforced) * times,
        trained=times,
    )


def step_options(config: Config, stage: str) -> StepOptions:
    """Return the static options of the step of a training stage."""
    return StepOptions(tile=config.targets.tile, accumulate=getattr(config, stage).accumulate)


def make_training_step(
    config: Config,
    stage: str,
    forward: Forward,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    shardings: TrainState,
    objective: Objective | None = None,
) -> Callable:
    """Return the compiled step of a training stage, `(state, frozen, batch) -> (state, metrics)`.

    Args:
      objective: in place of the one that the configuration describes, where blocks of the run complete it.
    """
    objective = make_objective(config, stage) if objective is None else objective
    retain = make_retain(config) if stage == "forget" else None
    wrappers = make_wrappers(config) if stage == "forget" else None
    return make_step(forward, optimizer, objective, step_options(config, stage), mesh, shardings, retain, wrappers)
