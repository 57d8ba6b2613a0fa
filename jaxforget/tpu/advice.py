"""Options that save memory in a training step, with their effect on the result; `plan` compiles the step with each."""

import dataclasses
from typing import Any

from jax.sharding import Mesh

from jaxforget.config import Config
from jaxforget.models.transformer import REMATS
from jaxforget.sharding import row_shards
from jaxforget.stages.build import make_objective, passes


@dataclasses.dataclass(frozen=True)
class Option:
    """Options that are set together.

    Attributes:
      changes: dotted name -> value.
      effect: the change to the result, in words; None if only the time of a step changes.
    """

    changes: dict[str, Any]
    effect: str | None = None

    @property
    def arguments(self) -> list[str]:
        """The options as arguments of a command line, NAME=VALUE."""
        return [
            f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in self.changes.items()
        ]


def replaced(config: Config, changes: dict[str, Any]) -> Config:
    """Return `config` with the options `changes`, dotted name -> value."""
    for name, value in changes.items():
        section, _, key = name.partition(".")
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{key: value})})
    return config


def candidates(config: Config, mesh: Mesh, name: str) -> list[Option]:
    """Return the options that save memory in the training step `name`.

    First come single options that cost time or precision, then all of these together, then other forms of the weights,
    which the step undo does not have: it changes every weight.
    """
    options = getattr(config, name)
    shards = row_shards(mesh)
    rows = options.batch + (config.retain.rows if name == "forget" else 0)
    singles: list[Option] = []
    if rows // shards > options.accumulate:
        singles.append(Option({f"{name}.accumulate": rows // shards}))
    # The last value of an option enters all options together, so the one that recomputes most comes last.
    less = REMATS[: REMATS.index(config.model.remat)]
    singles += [Option({"model.remat": remat}) for remat in reversed(less)]
    if config.targets.tile > 256:
        singles.append(Option({"targets.tile": 256}))
    if config.model.dtype == "float32":
        singles.append(Option({"model.dtype": "bfloat16"}, "the models compute in bfloat16"))
    if options.moment_dtype == "float32":
        singles.append(Option({f"{name}.moment_dtype": "bfloat16"}, "AdamW's moments are rounded to bfloat16"))
    if len(singles) > 1:
        every = {key: value for single in singles for key, value in single.changes.items()}
        singles.append(Option(every, "; ".join(single.effect for single in singles if single.effect) or None))
    return singles if name == "undo" else singles + _other_forms(config, name)


def _other_forms(config: Config, name: str) -> list[Option]:
    """Return options that move work to another step, train other weights, or store the frozen models in 8 bits."""
    forget = name == "forget"
    needed = passes(config, name)
    base, reinforced = forget and needed.base, needed.reinforced
    found: list[Option] = []
    if forget and make_objective(config).cacheable and reinforced:
        found.append(Option({"targets.cache": True}, "all blocks are labelled before training (step label)"))
    if reinforced and config.reinforce.weights == "full":
        found.append(
            Option({"reinforce.weights": "int8-delta"}, "the reinforced model is stored as 8-bit differences from base")
        )
    if base and config.model.base == "full":
        found.append(Option({"model.base": "int8"}, "base's layers are stored in 8 bits"))
    rate = f"only an adapter trains: set {name}.learning_rate near 1e-4"
    if getattr(config, name).weights != "lora":
        found.append(Option({f"{name}.weights": "lora"}, rate))
    wanted = {"model.base": "int8"}
    if not forget or (reinforced and config.model.reinforced is None):  # a given model is not trained
        wanted["reinforce.weights"] = "lora"
    if forget:
        wanted["forget.weights"] = "lora"
    smallest = {key: value for key, value in wanted.items() if _value(config, key) != value}
    if smallest and smallest not in [option.changes for option in found]:
        stages = " and ".join(f"{s}.learning_rate" for s in ("reinforce", "forget") if f"{s}.weights" in smallest)
        adapters = f"adapters train: set {stages} near 1e-4" if stages else ""
        stored = "base's layers are stored in 8 bits" if "model.base" in smallest else ""
        found.append(Option(smallest, "; ".join(part for part in (adapters, stored) if part)))
    return found


def _value(config: Config, name: str) -> Any:
    section, _, key = name.partition(".")
    return getattr(getattr(config, section), key)
