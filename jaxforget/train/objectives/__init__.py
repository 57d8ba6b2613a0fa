"""Objectives by the name of their method: `method=NAME` for `jaxforget forget`, and `next_token` for `reinforce`."""

from jaxforget.train.objectives.ceu import Ceu
from jaxforget.train.objectives.dpo import Dpo
from jaxforget.train.objectives.grad_ascent import GradAscent, GradDiff
from jaxforget.train.objectives.next_token import NextToken
from jaxforget.train.objectives.npo import Npo, SimNpo
from jaxforget.train.objectives.objective import Objective
from jaxforget.train.objectives.retain import Retain
from jaxforget.train.objectives.undial import Undial
from jaxforget.train.objectives.weighted_ascent import SatImp, Wga
from jaxforget.train.objectives.whp import Whp, WhpSoft

METHODS: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (Whp, WhpSoft, GradAscent, GradDiff, Npo, Dpo, SimNpo, Undial, Ceu, Wga, SatImp)
}

__all__ = ["METHODS", "NextToken", "Objective", "Retain"]
