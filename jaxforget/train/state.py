"""The state of training: initialisation, shardings and one update."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.train.precision import Split, joined, split
from jaxforget.train.types import Array, Params, TrainState


def init_state(params: Params, optimizer: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """Return a fresh state; `params` are donated to it, so nothing else may use them afterwards.

    Where `shardings` are those of split weights (`state_shardings(..., halves=True)`), fp32 `params` are split.
    """
    fresh = partial(_fresh, optimizer=optimizer, shardings=shardings)
    return jax.jit(fresh, donate_argnums=0, out_shardings=shardings)(params)


def _fresh(params: Params, *, optimizer: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    opt_state = optimizer.init(params)
    dual = None if shardings.dual is None else jnp.zeros((), jnp.float32)
    held = split(params) if isinstance(shardings.params, Split) else params
    return TrainState(jnp.zeros((), jnp.int32), held, opt_state, dual)


def abstract_state(shapes: Params, optimizer: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """Return the state of `init_state` as sharded `ShapeDtypeStruct`s: to restore into, or to compile for."""
    fresh = partial(_fresh, optimizer=optimizer, shardings=shardings)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(fresh, shapes),
        shardings,
    )


def state_shardings(
    shapes: Params,
    params: Params,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    halves: bool = False,
    constrained: bool = False,
) -> TrainState:
    """Return the shardings of a `TrainState`: moments are sharded as their parameters, counters are replicated.

    Args:
      shapes: the student's parameters as arrays or `ShapeDtypeStruct`s.
      params: their `NamedSharding`s, same tree.
      halves: the state holds fp32 weights as `Split`, for a forward pass in bf16.
      constrained: the state holds a Lagrange multiplier (`Objective.constrained`).
    """
    whole = NamedSharding(mesh, PartitionSpec())
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, shapes),
        params,
        transform_non_params=lambda _: whole,
    )
    held = Split(params, params) if halves else params
    return TrainState(step=whole, params=held, opt_state=opt_state, dual=whole if constrained else None)


def update_state(
    state: TrainState, gradients: Params, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Array]:
    """Apply one optimiser update; returns the new state and the norm of the gradients, fp32 []."""
    with jax.named_scope("optimizer"):
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
        norm = optax.tree.norm(gradients)
        params = joined(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        params = split(params) if isinstance(state.params, Split) else params
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state), norm
