"""Objectives by the name of their method: `method=NAME` for `jaxforget forget`, `next_token` for `reinforce`,
`distillation` for `undo`."""

import difflib
import math
from collections.abc import Mapping
from typing import Any

from jaxforget.errors import UserError
from jaxforget.train.objectives.ceu import Ceu
from jaxforget.train.objectives.distillation import Distillation
from jaxforget.train.objectives.dpo import Dpo
from jaxforget.train.objectives.grad_ascent import GradAscent, GradDiff
from jaxforget.train.objectives.next_token import NextToken
from jaxforget.train.objectives.npo import Npo, SimNpo
from jaxforget.train.objectives.objective import Objective
from jaxforget.train.objectives.pdu import Pdu
from jaxforget.train.objectives.retain import Retain
from jaxforget.train.objectives.rmu import Rmu
from jaxforget.train.objectives.task_vector import TaskVector
from jaxforget.train.objectives.undial import Undial
from jaxforget.train.objectives.weighted_ascent import SatImp, Wga
from jaxforget.train.objectives.whp import Whp, WhpSoft
from jaxforget.train.objectives.whp_average import WhpAverage
from jaxforget.train.objectives.whp_flat import WhpFlat

METHODS: dict[str, type[Objective]] = {
    objective.name: objective
    for objective in (
        Whp,
        WhpSoft,
        WhpFlat,
        WhpAverage,
        GradAscent,
        GradDiff,
        Npo,
        Dpo,
        SimNpo,
        Undial,
        Ceu,
        Wga,
        SatImp,
        Pdu,
        Rmu,
        TaskVector,
    )
}

__all__ = ["METHODS", "Distillation", "NextToken", "Objective", "Retain", "check_settings", "find_method"]


def find_method(name: str, key: str) -> type[Objective]:
    """Return the objective of a method.

    Args:
      name: of the method.
      key: the option or argument that named it, for the error.

    Raises:
      UserError: there is no such method; names the nearest.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, 1)
        meant = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{key}={name}: no such method; {meant}the methods are {', '.join(METHODS)}")
    return METHODS[name]


def check_settings(kind: type[Objective], settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the settings of a method, whole numbers as int.

    Args:
      kind: the method's objective.
      settings: name -> number.
      prefix: what stands before a setting's name where the user set it, for errors.

    Raises:
      UserError: a setting that the method lacks, or a value that it cannot have.
    """
    known = {field.name: field for field in kind.settings()}
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in known:
            names = ", ".join(f"{prefix}{other}" for other in known)
            raise UserError(f"{prefix}{name}: method {kind.name} has no such setting; it has {names}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{prefix}{name}={value!r}: must be a finite number")
        whole = known[name].type in (int, "int")
        if whole and value != int(value):
            raise UserError(f"{prefix}{name}={value}: must be a whole number")
        least = known[name].metadata.get("above")
        if least is not None and value <= least:
            raise UserError(f"{prefix}{name}={value}: must be above {least}")
        found[name] = int(value) if whole else float(value)
    return found
