"""The parts of a training step: forward functions, state and frozen models."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import struct

Array = jax.Array
Params = Any
Batch = dict[str, Array]


def _no_delta(base: Params, delta: Params) -> Params:
    return delta


@dataclasses.dataclass(frozen=True)
class Forward:
    """A causal language model as pure functions, so that no step ever needs all of its logits at once.

    Attributes:
      hidden: (params, tokens int [B, S]) -> final hidden states [B, S, D]; right padding is allowed.
      head: (params) -> output projection [D, V].
      apply_delta: (base's params or None, delta) -> params. A delta that holds every weight is the params themselves.
      soft_cap: logits are `jaxforget.output_projection.logits_of(states, head, soft_cap)`; None means the product.
      states: (params, tokens int [B, S], layer) -> hidden states [B, S, D] after the first `layer` layers; None where
        the model does not offer them.
    """

    hidden: Callable[[Params, Array], Array]
    head: Callable[[Params], Array]
    apply_delta: Callable[[Params, Params], Params] = _no_delta
    soft_cap: float | None = None
    states: Callable[[Params, Array, int], Array] | None = None


@struct.dataclass
class TrainState:
    """The state that a step updates; it is donated to every step.

    Attributes:
      step: int32 [], number of updates so far.
      params: the weights that train: all of the student's, or its delta over base, as `precision.Split` halves where
        the forward pass runs in bfloat16.
      opt_state: state of the optimiser.
      dual: fp32 [], the Lagrange multiplier of an objective with a constraint; None for every other objective.
    """

    step: Array
    params: Params
    opt_state: optax.OptState
    dual: Array | None = None


@struct.dataclass
class Frozen:
    """The frozen models: arguments of the step, outside the tree that is differentiated and optimised.

    Attributes:
      base: all weights of base; student and reinforced may be deltas over them. None where no pass reads them.
      reinforced: all weights of the reinforced model or its delta over base. None where no pass reads them.
    """

    base: Params = None
    reinforced: Params = None
