"""The presets of configs/slices, each compiled for the slice in its name; rows are stored between runs."""

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxforget.config import Config, load_config, options
from jaxforget.errors import UserError
from jaxforget.files import read_json, write_json
from jaxforget.models.config import ModelConfig
from jaxforget.models.published import PUBLISHED
from jaxforget.tpu.topology import Slice, find_slice

GIB = 2**30
# The code that a compiled step depends on; a change of other code cannot change a row.
CODE = ("cpu.py", "lm", "sharding.py", "config", "models", "stages/build.py", "tpu", "train")
HEADER = (
    "slice",
    "model",
    "weights",
    "blocks",
    "remat",
    "peak GiB",
    "usable GiB",
    "arguments",
    "temporaries",
    "sent GiB",
    "FLOP bound, s",
)

UNSEEN = ("out", "forget.max_steps", "reinforce.max_steps")  # options that do not change a row


@dataclasses.dataclass(frozen=True)
class Preset:
    """A file of configs/slices.

    Attributes:
      name: the file's name without suffix.
      slice: the slice, which is the last part of the name.
      config: the run that the file describes.
    """

    name: str
    slice: str
    config: Config


def find_presets(folder: Path, names: Sequence[str] = ()) -> list[Preset]:
    """Return the presets in `folder`, all or those named, by size of slice and then by name.

    Raises:
      UserError: there is no such preset, or the name of a file does not end in a slice.
    """
    files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    if missing := [name for name in names if name not in files]:
        raise UserError(f"{missing[0]}: no such preset; {folder} holds {', '.join(files)}")
    found = [
        Preset(name, name.rpartition("_")[2], load_config(path))
        for name, path in files.items()
        if not names or name in names
    ]
    return sorted(found, key=lambda preset: (find_slice(preset.slice).chips, preset.name))


def preset_for(place: Slice, model_config: ModelConfig) -> str | None:
    """Return the file of configs/slices for a model of this shape on `place`; None if this checkout has none."""
    folder = Path(__file__).parents[2] / "configs" / "slices"
    for path in sorted(folder.glob(f"*_{place.name}.yaml")):
        try:
            model = load_config(path).model.folder
        except UserError:  # a faulty file of the user must not lose the compiled rows
            continue
        if model in PUBLISHED and _sizes(PUBLISHED[model]) == _sizes(model_config):
            return f"configs/slices/{path.name}"
    return None


def _sizes(model_config: ModelConfig) -> tuple[int | str, ...]:
    return (
        model_config.family,
        model_config.vocab_size,
        model_config.hidden_size,
        model_config.intermediate_size,
        model_config.num_hidden_layers,
        model_config.num_attention_heads,
        model_config.num_key_value_heads,
        model_config.head_dim,
    )


def fingerprint(preset: Preset) -> dict[str, str]:
    """Return everything that a row depends on: the configuration, the compiler, and the code that makes the step."""
    root = Path(__file__).parents[1]
    files = [path for part in CODE for path in ([root / part] if part.endswith(".py") else (root / part).rglob("*.py"))]
    code = hashlib.sha256()
    for path in sorted(files):
        code.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    versions = {package: importlib.metadata.version(package) for package in ("jax", "libtpu")}
    return {"config": _settings(preset.config), "slice": preset.slice, "code": code.hexdigest(), **versions}


def _settings(config: Config) -> str:
    """Return the options that differ from their defaults as JSON, so that a new option keeps the stored rows valid."""
    default = Config()
    found = {}
    for name, _ in options():
        value, usual = (functools.reduce(getattr, name.split("."), of) for of in (config, default))
        if value != usual and name not in UNSEEN:
            found[name] = value
    return json.dumps(found, sort_keys=True)


def kept_row(preset: Preset, folder: Path, *, any_code: bool = False) -> dict[str, Any] | None:
    """Return the stored row if nothing that it depends on has changed, else None; `any_code` ignores changed code."""
    path = folder / f"{preset.name}.json"
    if not path.is_file():
        return None
    kept = read_json(path)
    ignored = {"code"} if any_code else set()
    made, now = ({k: v for k, v in of.items() if k not in ignored} for of in (kept["made_of"], fingerprint(preset)))
    return kept["row"] if made == now else None


def compile_presets(
    presets: Sequence[Preset],
    folder: Path,
    compile_one: Callable[[Preset], dict[str, Any]],
    *,
    any_code: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> list[tuple[Preset, dict[str, Any]]]:
    """Compile the presets; return each with its row.

    Every row is stored in `folder` at once, so that an interrupted run continues where it stopped.

    Args:
      presets: the presets.
      folder: the folder of stored rows.
      compile_one: preset -> row.
      any_code: use a stored row though the code has changed.
      say: receives a line about each preset.
    """
    found = []
    for preset in presets:
        row = kept_row(preset, folder, any_code=any_code)
        if row is None:
            say(f"{preset.name}: compiling")
            made_of = fingerprint(preset)
            row = compile_one(preset)
            write_json(folder / f"{preset.name}.json", {"made_of": made_of, "row": row})
        say(f"{preset.name}: {_gib(row['peak_hbm_bytes'])} of {_gib(row['limit_hbm_bytes'])} GiB")
        found.append((preset, row))
    return found


def as_markdown(rows: Sequence[tuple[Preset, dict[str, Any]]]) -> str:
    """Return the table of configs/slices/README.md."""
    lines = [HEADER, ("---",) * len(HEADER), *(_cells(preset, row) for preset, row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cells(preset: Preset, row: dict[str, Any]) -> tuple[str, ...]:
    sent, projection = row["collective_bytes"], row["projection"]
    return (
        f"[{preset.slice}]({preset.name}.yaml)",
        preset.config.model.folder.rpartition("/")[2].removesuffix("-chat-hf"),
        f"{row['trainable']}; {row['weights']}",
        str(row["blocks"]),
        preset.config.model.remat,
        _gib(row["peak_hbm_bytes"]) if row["fits"] else f"does not fit: {_gib(row['peak_hbm_bytes'])}",
        _gib(row["limit_hbm_bytes"]),
        _gib(row["argument_bytes"]),
        _gib(row["temporary_bytes"]),
        "?" if sent is None else _gib(sum(sent.values())),
        "" if projection is None else f"{projection['seconds']['compute']:.2f}",
    )


def _gib(size: int | None) -> str:
    return "?" if size is None else f"{size / GIB:.2f}"
