"""The catalogue of suites, in the order of the tables; a suite is imported only when it is used."""

from __future__ import annotations

import dataclasses
import importlib
import typing

from jaxforget.errors import UserError

if typing.TYPE_CHECKING:  # the command line reads the names for its help, which loads neither NumPy nor JAX
    from jaxforget.evals.suite import Suite


@dataclasses.dataclass(frozen=True)
class Entry:
    """A suite's name, which is also its module in `jaxforget.evals`, and the groups that it belongs to."""

    name: str
    groups: tuple[str, ...] = ()

    def load(self) -> Suite:
        """Import the suite."""
        return importlib.import_module(f"jaxforget.evals.{self.name}").SUITE


CATALOGUE = (
    Entry("probability"),
    Entry("forgotten"),
    Entry("multiple_choice"),
    Entry("benchmarks"),
    Entry("harness"),
    Entry("muse"),
    Entry("tofu"),
    Entry("memorization"),
    Entry("membership", groups=("robustness",)),
    Entry("prompting", groups=("robustness",)),
    Entry("soft_prompt", groups=("robustness",)),
    Entry("weights", groups=("robustness",)),
    Entry("relearning", groups=("robustness",)),
    Entry("completion"),
    Entry("audit"),
)
GROUPS = tuple(dict.fromkeys(group for entry in CATALOGUE for group in entry.groups))
NAMES = (*(entry.name for entry in CATALOGUE), *GROUPS)


def choose(names: str) -> tuple[Entry, ...]:
    """Return the suites that `names` (of suites or groups, separated by commas; or "all") select, in table order.

    Raises:
      UserError: a name is unknown.
    """
    known = ("all", *NAMES)
    wanted = {name.strip() for name in names.split(",")}
    for name in names.split(","):
        if name.strip() not in known:
            raise UserError(f"suite={name.strip()}: no such suite; there are {', '.join(known)}")
    return tuple(entry for entry in CATALOGUE if {"all", entry.name, *entry.groups} & wanted)
