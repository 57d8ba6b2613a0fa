"""Negative preference optimisation: NPO (arXiv 2404.05868) and SimNPO (arXiv 2410.07163), which needs no reference."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxforget.train.objectives.objective import Objective
from jaxforget.train.types import Array


@dataclasses.dataclass(frozen=True)
class Npo(Objective):
    """-(2 / beta) log sigmoid(-beta (log p(y) - log p_base(y))), a mean over rows; y are a row's counted tokens.

    The forget rows need base and no reinforced model.

    Attributes:
      beta: inverse temperature, above 0; towards 0 the loss becomes gradient ascent.
    """

    beta: float = dataclasses.field(default=0.1, metadata={"above": 0})

    name: ClassVar[str] = "npo"
    searched: ClassVar[str] = "objective.beta"
    per_row: ClassVar[bool] = True

    @property
    def uses_base(self) -> bool:
        return True

    def row_loss(self, logp: Array, base_logp: Array | None, count: Array) -> Array:
        return 2 / self.beta * jax.nn.softplus(self.beta * (logp - base_logp))


@dataclasses.dataclass(frozen=True)
class SimNpo(Objective):
    """-(2 / beta) log sigmoid(beta (nll / |y| - delta)), a mean over rows.

    The forget rows need no frozen model.

    Attributes:
      beta: inverse temperature.
      delta: margin on the mean negative log-probability of a token, nats.
    """

    weight: float = 0.125
    beta: float = dataclasses.field(default=4.5, metadata={"above": 0})
    delta: float = 0.0

    name: ClassVar[str] = "simnpo"
    searched: ClassVar[str] = "objective.beta"
    per_row: ClassVar[bool] = True

    def row_loss(self, logp: Array, base_logp: Array | None, count: Array) -> Array:
        mean = -logp / jnp.maximum(count, 1.0)
        return 2 / self.beta * jax.nn.softplus(-self.beta * (mean - self.delta))
