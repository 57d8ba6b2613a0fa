"""The optimiser: AdamW with a linear schedule."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def linear_schedule(learning_rate: float, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Return a schedule that rises linearly from 0 and then falls linearly to 0 (METHOD.md section 6).

    Args:
      learning_rate: highest rate.
      warmup_steps: steps of the rise; 0 in the paper.
      total_steps: step at which the rate is 0 again.
    """
    decay = optax.linear_schedule(learning_rate, 0.0, max(total_steps - warmup_steps, 1))
    if not warmup_steps:
        return decay
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), decay], [warmup_steps])


def make_optimizer(
    schedule: optax.Schedule,
    *,
    b1: float,
    b2: float,
    eps: float,
    weight_decay: float,
    clip_norm: float | None,
    moment_dtype: str,
) -> optax.GradientTransformation:
    """Return AdamW.

    Args:
      schedule: step -> learning rate.
      b1, b2, eps: constants of Adam.
      weight_decay: coefficient of the decoupled decay; 0 for none.
      clip_norm: maximal global norm of the gradient; None for no clipping.
      moment_dtype: dtype in which both moments are stored between steps; they are computed in float32.
    """
    steps = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
    steps.append(_stored(optax.scale_by_adam(b1, b2, eps), jnp.dtype(moment_dtype)))
    if weight_decay:
        steps.append(optax.add_decayed_weights(weight_decay))
    return optax.chain(*steps, optax.scale_by_learning_rate(schedule))


def _stored(inner: optax.GradientTransformation, dtype: jnp.dtype) -> optax.GradientTransformation:
    """Return `inner` with a state that is stored in `dtype` and computed in fp32.

    optax's own option affects only the first moment.
    """
    if dtype == jnp.float32:
        return inner

    def cast(state: Any, before: jnp.dtype, after: jnp.dtype) -> Any:
        return jax.tree.map(lambda x: x.astype(after) if x.dtype == before else x, state)

    def init(params: Any) -> Any:
        return cast(inner.init(params), jnp.float32, dtype)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = inner.update(updates, cast(state, dtype, jnp.float32), params)
        return updates, cast(state, jnp.float32, dtype)

    return optax.GradientTransformation(init, update)
