"""What a step is made of: the forward functions it is given, its state, and the frozen teachers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

Array = jax.Array
Params = Any
Batch = dict[str, Array]


def _own(base: Params, own: Params) -> Params:
    return own


def soft_capped(logits: Array, soft_cap: float | None) -> Array:
    """Return logits [...] bounded smoothly to within +-soft_cap (Gemma 2); None leaves them as they are."""
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def soft_cap_gradient(capped: Array, gradient: Array, soft_cap: float | None) -> Array:
    """Return the gradient [...] by the logits before the cap, from the one by the `capped` logits."""
    return gradient if soft_cap is None else gradient * (1 - jnp.square(capped / soft_cap))


@dataclasses.dataclass(frozen=True)
class Forward:
    """A causal language model as two pure functions, so that no step ever needs its logits whole.

    hidden: (params, tokens int [B, S]) -> final states [B, S, D], right padding allowed.
    head:   (params) -> output projection [D, V].
    soft_cap: logits are `soft_capped(states @ head, soft_cap)`; None: the product itself.
    over:   (base's params or None, a model's own) -> its params; a model whose own are all of them is its own.
    """

    hidden: Callable[[Params, Array], Array]
    head: Callable[[Params], Array]
    apply_delta: Callable[[Params, Params], Params] = _own
    soft_cap: float | None = None


@struct.dataclass
class TrainState:
    """What trains; donated to every step.

    step: int32 []. params: what trains of the student, all of it or what it has over base, or the two halves of that
    (`precision.Split`). opt_state: optax's.
    """

    step: Array
    params: Params
    opt_state: optax.OptState


@struct.dataclass
class Frozen:
    """The teachers: arguments of the step, outside the tree that is differentiated and optimised. None: not needed.

    base: whole; what student and reinforced may stand over. reinforced: whole, or its own over base.
    """

    base: Params
    reinforced: Params
