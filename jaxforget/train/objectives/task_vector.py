"""Task arithmetic: base minus what reinforcing added (arXiv 2212.04089); nothing trains."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxforget.train.objectives.objective import Objective
from jaxforget.train.types import Params


@dataclasses.dataclass(frozen=True)
class TaskVector(Objective):
    """The weights base - strength (reinforced - base), computed once in fp32.

    Attributes:
      strength: lambda, how much of the difference is taken away.
    """

    strength: float = 1.0

    name: ClassVar[str] = "task_vector"
    searched: ClassVar[str] = "objective.strength"
    needs_reinforced: ClassVar[bool] = True
    trains: ClassVar[bool] = False

    def weights(self, base: Params, reinforced: Params) -> Params:
        """Return the unlearned weights, fp32, of two trees of float arrays."""

        def moved(under: jax.Array, above: jax.Array) -> jax.Array:
            under, above = under.astype(jnp.float32), above.astype(jnp.float32)
            return under - self.strength * (above - under)

        return jax.tree.map(moved, base, reinforced)
