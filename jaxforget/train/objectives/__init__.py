"""Objectives by the name of their method: `method=NAME` for `jaxforget forget`, and `next_token` for `reinforce`."""

from jaxforget.train.objectives.next_token import NextToken
from jaxforget.train.objectives.objective import Objective
from jaxforget.train.objectives.retain import Retain
from jaxforget.train.objectives.whp import Whp, WhpSoft

METHODS: dict[str, type[Objective]] = {objective.name: objective for objective in (Whp, WhpSoft)}

__all__ = ["METHODS", "NextToken", "Objective", "Retain"]
