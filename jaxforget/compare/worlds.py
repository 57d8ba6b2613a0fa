"""The seeds of a comparison: random seeds of a run, or other worlds where the configuration is the demo's."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from jaxforget.config import Config
from jaxforget.demo.demo import make_models
from jaxforget.errors import UserError
from jaxforget.files import read_json


def seed_config(config: Config, seed: int, work: Path) -> Config:
    """Return the configuration of a seed.

    On a text of your own, the seed is the run's. On the toy world it is the world's: text, base and control are made as
    `jaxforget demo --seed` makes them, in `work`, unless they are those of the configuration.

    Args:
      config: the configuration of the comparison.
      seed: the seed.
      work: the folder that receives further worlds.
    """
    demo = demo_folder(config)
    if demo is None:
        return dataclasses.replace(config, seed=seed)
    truth = demo / "world" / "truth.json"
    if not truth.is_file():
        raise UserError(f"{demo}: holds no toy world; run jaxforget demo --out {demo}")
    if read_json(truth)["seed"] == seed:
        return config
    place = work / "worlds" / f"seed_{seed}"
    make_models(place, seed)
    return _moved(config, demo, place)


def demo_folder(config: Config) -> Path | None:
    """Return the folder of the demo whose base and text the configuration names; None for any other configuration."""
    if config.model.folder is None or config.corpus.path is None:
        return None
    demo = Path(config.model.folder).parent
    named = {Path(config.model.folder).name, os.path.relpath(config.corpus.path, demo)}
    return demo if named == {"base", os.path.join("world", "text", "target")} else None


def _moved(value: Any, old: Path, new: Path) -> Any:
    """Replace the folder `old` by `new` in every place of a configuration but `out`."""
    if dataclasses.is_dataclass(value):
        fields = [field.name for field in dataclasses.fields(value) if field.name != "out"]
        return dataclasses.replace(value, **{name: _moved(getattr(value, name), old, new) for name in fields})
    if isinstance(value, str) and Path(value).is_relative_to(old) and value not in ("", "."):
        return str(new / Path(value).relative_to(old))
    return value
