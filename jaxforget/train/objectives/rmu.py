"""Representation misdirection: RMU (arXiv 2403.03218). The loss is on hidden states in the middle of the model."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxforget.train.objectives.objective import Objective, real_answers
from jaxforget.train.types import Array, Batch, Params


@dataclasses.dataclass(frozen=True)
class Rmu(Objective):
    """The mean square distance of hidden states after layer `layer` from c u, over forget tokens and the width.

    u is a fixed random unit vector. With retain.loss=states, the retain rows are held to base's own states there. The
    forget rows need no frozen model.

    Attributes:
      layer: number of layers whose output is moved.
      scale: c, the length of the vector that the states move to.
      near: 1 trains the layers from layer - 2 to layer; 0 trains every parameter.
      seed: of u.
    """

    layer: int = 7
    scale: float = 2.0
    near: int = 1
    seed: int = 0

    name: ClassVar[str] = "rmu"
    searched: ClassVar[str] = "objective.scale"
    on_states: ClassVar[bool] = True

    def counted(self, batch: Batch) -> Array:
        # A state belongs to its own token, not to the next one.
        return batch["weights"] * real_answers(batch)

    def target(self, width: int) -> Array:
        """Return c u, fp32 [D]."""
        u = jax.random.uniform(jax.random.key(self.seed), (width,), jnp.float32)
        return self.scale * u / jnp.linalg.norm(u)

    def trained(self, gradients: Params) -> Params:
        """Return `gradients` with zeros outside the layers that train."""
        if not self.near:
            return gradients

        def kept(leaf: Array) -> Array:
            number = jnp.arange(leaf.shape[0])
            inside = (number >= self.layer - 3) & (number < self.layer)
            return jnp.where(inside.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

        layers = jax.tree.map(kept, gradients["layers"])
        return {
            name: layers if name == "layers" else jax.tree.map(jnp.zeros_like, gradients[name]) for name in gradients
        }
