"""The search of a method: its trials over learning rate and strength."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from jaxforget.config import Config, value_of
from jaxforget.errors import UserError
from jaxforget.train.objectives import METHODS, find_method

RATE = "forget.learning_rate"
# Factors of the configured values. Trials are ordered from the configured values outwards.
RATES, STRENGTHS = (1.0, 1 / 3, 3.0, 0.1), (1.0, 0.25, 4.0)
MOST_TRIALS = len(RATES) * len(STRENGTHS)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a method; `settings` are the options that the search sets, as name -> value."""

    method: str
    settings: dict[str, float]

    @property
    def name(self) -> str:
        """The name of the trial's folder, and of its model in tables."""
        words = [f"{option.rpartition('.')[2]}_{value:g}" for option, value in self.settings.items()]
        return "-".join([self.method, *words])

    def configure(self, config: Config) -> Config:
        """Return `config` with the method and the settings of the trial."""
        config = method_config(config, self.method)
        for option, value in self.settings.items():
            section, _, key = option.partition(".")
            if section == "objective":
                config = dataclasses.replace(config, objective={**config.objective, key: value})
            else:
                part = dataclasses.replace(getattr(config, section), **{key: value})
                config = dataclasses.replace(config, **{section: part})
        return config

    def describe(self, config: Config) -> dict[str, Any]:
        """Return the options that turn `config` into this trial's configuration, as name -> value."""
        mine = method_config(config, self.method)
        names = ("targets.suppress", "targets.cache", "retain.loss", "retain.weight", "retain.rows", "forget.weights")
        adapted = {name: value_of(mine, name) for name in names if value_of(mine, name) != value_of(config, name)}
        fixed = {f"objective.{name}": value for name, value in mine.objective.items()}
        return {"method": self.method, **adapted, **fixed, **self.settings}


def method_config(config: Config, method: str) -> Config:
    """Return `config` for another method, without the options that only its own method takes.

    A setting of the configuration that its own method lacks (objective.layer beside method=whp) is meant for the
    compared methods that have it.
    """
    kind = find_method(method, "methods")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    taken = {field.metadata.get("option") for field in fields.values()}
    targets, retain, forget = config.targets, config.retain, config.forget
    if "targets.cache" not in taken:
        targets = dataclasses.replace(targets, cache=False)
    if "targets.suppress" not in taken:
        targets = dataclasses.replace(targets, suppress="seen")
    if kind.constrained:
        retain = dataclasses.replace(retain, loss="nll")
    elif retain.loss == "states" and not kind.on_states:
        retain = dataclasses.replace(retain, loss="kl")
    if not kind.trains:
        retain = dataclasses.replace(retain, weight=0.0, rows=0)
        forget = dataclasses.replace(forget, weights="full", sam=0.0)
    owned = {field.name for field in find_method(config.method, "method").settings()}
    objective = {
        name: value
        for name, value in config.objective.items()
        if name in fields and (method == config.method or name not in owned)
    }
    ilu = config.ilu if kind.trains else dataclasses.replace(config.ilu, weight=0.0, rows=0)
    return dataclasses.replace(
        config, method=method, objective=objective, targets=targets, retain=retain, forget=forget, ilu=ilu
    )


def unused_settings(config: Config, methods: Sequence[str]) -> dict[str, list[str]]:
    """Return each setting objective.NAME that neither the configuration's method nor a compared one has.

    Returns:
      The setting's NAME -> the methods that have it.

    Raises:
      UserError: no method at all has such a setting, or a method does not exist.
    """
    kinds = [find_method(config.method, "method"), *(find_method(method, "methods") for method in methods)]
    used = {field.name for kind in kinds for field in kind.settings()}
    unused = {}
    for name in (name for name in config.objective if name not in used):
        unused[name] = [method for method, kind in METHODS.items() if name in {field.name for field in kind.settings()}]
        if not unused[name]:
            had = f"the compared ones have {', '.join(sorted(used))}" if used else "the compared ones have none"
            raise UserError(f"objective.{name}: no method has such a setting; {had}")
    return unused


def search(config: Config, method: str) -> list[Trial]:
    """Return the grid of a method's trials, sorted by distance from the configured values (sum of |log factor|).

    The axes are the learning rate, if the method trains, and one strength: the weight of the retain term if there is
    one, otherwise the setting that the objective names in `searched`. A constrained objective always uses the latter.
    An axis whose configured value is 0 is omitted. Trials with a learning rate above 1 are omitted too.
    """
    kind, config = find_method(method, "methods"), method_config(config, method)
    values = {RATE: value_of(config, RATE)} if kind.trains else {}
    weighted = kind.trains and not kind.constrained and config.retain.weight
    strength = "retain.weight" if weighted else kind.searched
    section, _, key = strength.partition(".")
    if section == "objective":
        default = next(field.default for field in dataclasses.fields(kind) if field.name == key)
        values[strength] = config.objective.get(key, default)
    else:
        values[strength] = value_of(config, strength)
    values = {option: value for option, value in values.items() if value}
    grid = itertools.product(*(RATES if option == RATE else STRENGTHS for option in values))
    trials = []
    for factors in sorted(grid, key=lambda factors: sum(abs(math.log(factor)) for factor in factors)):
        # The search is coarse: three digits make readable settings. The configured values stay exact.
        settings = {
            option: value if factor == 1 else float(f"{value * factor:.3g}")
            for (option, value), factor in zip(values.items(), factors, strict=True)
        }
        trials.append(Trial(method, settings))
    return [trial for trial in trials if trial.settings.get(RATE, 0) <= 1]
