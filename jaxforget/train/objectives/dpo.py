"""Direct preference optimisation of an alternative answer over the one to forget (arXiv 2305.18290; IdkDPO, AltPO)."""

import dataclasses
from typing import ClassVar

import jax

from jaxforget.train.objectives.objective import Objective
from jaxforget.train.types import Array


@dataclasses.dataclass(frozen=True)
class Dpo(Objective):
    """-(2 / beta) log sigmoid(beta (r(alternative) - r(y))) with r = log p - log p_base, a mean over rows.

    The forget rows need base and no reinforced model.

    Attributes:
      beta: inverse temperature.
    """

    beta: float = dataclasses.field(default=0.1, metadata={"above": 0})

    name: ClassVar[str] = "dpo"
    searched: ClassVar[str] = "objective.beta"
    per_row: ClassVar[bool] = True
    alternates: ClassVar[bool] = True

    @property
    def uses_base(self) -> bool:
        return True

    def row_loss(self, logp: Array, base_logp: Array | None, count: Array) -> Array:
        ratio = logp - base_logp  # [2 B]: the forget rows, then their alternatives
        rows = ratio.shape[0] // 2
        return 2 / self.beta * jax.nn.softplus(-self.beta * (ratio[rows:] - ratio[:rows]))
