"""Read a checked `Config` from YAML and dotted `key=value` words, and write it back.

A configuration is a YAML file that sets some of the schema's keys, and words that override it. Types are enforced. An
unknown key is refused with the nearest name. Paths are relative to the working directory; a leading `~/` is the user's
home. A run's own config.yaml is portable: places inside the run are stored as `${out}/...`, all others as absolute
paths, and `out` is always the folder in which the file is found.
"""

import dataclasses
import difflib
import functools
import math
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from jaxforget.config.layers import check_numbers, quotable, read_layers
from jaxforget.config.option import MOST, TRAINING
from jaxforget.config.schema import RESERVED_NAMES, SECTIONS, Config, options
from jaxforget.errors import UserError, first_line

# Words of some commands that are no options, and how they are written.
WORDS = {
    "suite": "jaxforget eval CONFIG suite=NAME",
    "slice": "jaxforget plan CONFIG --slice NAME",
    "methods": "jaxforget compare CONFIG methods=NAME,NAME",
}
LIKE = 0.6  # a name is suggested from this likeness on
MISSPELT = 0.8  # from this likeness on, a key is a misspelling within its section, not a key of another section
INSIDE = "${out}"  # stands for the run's folder in its own config.yaml


def load_config(source: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration and apply overrides.

    Args:
      source: a YAML file; a run's folder, which then is also `out`; None for the defaults.
      overrides: dotted `key=value` words; of two for one key the later wins.

    Raises:
      UserError: no such file, not YAML, an unknown key, a value of the wrong type or out of range.
    """
    if source is None:
        return config_from({}, overrides)
    values, folder = read_layers(Path(source)), run_folder(source)
    if folder is not None:
        # The folder may have been moved or copied since its configuration was saved in it.
        values = _placed(values, str(folder)) | {"out": _literal(str(folder))}
    return config_from(values, overrides, source=str(source))


def run_folder(source: str | Path) -> Path | None:
    """Return the run's folder that `source` names, itself or by its config.yaml; None for any other file."""
    path = Path(source)
    if path.is_dir():
        return path
    return path.parent if path.name == "config.yaml" and (path.parent / "manifest.json").is_file() else None


def _placed(value: Any, folder: str) -> Any:
    """Replace `${out}` at the start of every string."""
    if isinstance(value, dict):
        return {key: _placed(item, folder) for key, item in value.items()}
    if isinstance(value, str) and (value == INSIDE or value.startswith(f"{INSIDE}/")):
        return _literal(folder) + value.removeprefix(INSIDE)
    return value


def config_from(values: Mapping[str, Any], overrides: Sequence[str] = (), *, source: str | None = None) -> Config:
    """Make a configuration of nested values, as `load_config` does; errors name `source` beside the key."""
    where = f"{source}: " if source else ""
    # A section whose every line is commented out reads as null.
    values = {key: value for key, value in values.items() if value is not None or key not in SECTIONS}
    try:
        layer = OmegaConf.create(values)
    except OmegaConfBaseException as error:
        raise UserError(f"{where}{first_line(error)}") from None
    merged = _merge(_schema(), layer, where)
    for word in overrides:
        merged = _merge(merged, _override(word), f"{quotable(word)}: ")
    try:
        config = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(f"{where}{first_line(error)}") from None
    config = _expanded(config)
    _check(config, lambda *names: _origin(names, overrides, where))
    return config


def _origin(names: Sequence[str], overrides: Sequence[str], where: str) -> str:
    """Return how an error about the options `names` starts: with the file, unless a word overrides one of them."""
    words = {word.partition("=")[0] for word in overrides}
    return "" if words & set(names) else where


def to_yaml(config: Config, folder: str | Path | None = None) -> str:
    """Write the whole configuration as YAML that `load_config` reads back.

    Args:
      folder: the run's folder, for a portable file: places inside it are written relative to it, others absolute.
    """
    values = {name: _written(value) for name, value in dataclasses.asdict(config).items()}
    for name, field in options() if folder is not None else ():
        section, _, key = name.rpartition(".")
        node = values[section] if section else values
        if field.metadata["path"] is None or node[key] is None:
            continue
        given = getattr(getattr(config, section) if section else config, key)
        if isinstance(given, dict):
            node[key] = {inner: _portable(place, Path(folder)) for inner, place in given.items()}
        else:
            node[key] = _portable(given, Path(folder)) if section else _literal(os.path.abspath(given))
    return OmegaConf.to_yaml(OmegaConf.create(values))


def _written(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    return _literal(value) if isinstance(value, str) else value


def _portable(place: str, folder: Path) -> str:
    """A place that is valid from anywhere; a name that is no path here, of the hub or a data set, stays as it is."""
    if not os.path.lexists(place):
        return _literal(place)
    found, inside = os.path.abspath(place), os.path.abspath(folder)
    if found == inside or found.startswith(f"{inside}{os.sep}"):
        return INSIDE + _literal(found.removeprefix(inside))
    return _literal(found)


def _literal(text: str) -> str:
    """Escape "${", so that OmegaConf does not take it for a reference to another key."""
    return text.replace("${", r"\${")


def _override(word: str) -> DictConfig:
    """Parse one `key=value` into nested values: a text is taken literally, any other value as YAML."""
    key, sign, value = word.partition("=")
    if not sign or not key:
        raise UserError(f"{word!r}: options are written key=value, for example forget.learning_rate=1e-6")
    fields = {name: field.type for name, field in options()}
    kind = fields.get(key, fields.get(key.rpartition(".")[0]))
    mapping = typing.get_origin(kind) is dict
    inner = typing.get_args(kind)[mapping:] or (kind,)
    try:
        if str in inner and (key in fields) != mapping:
            empty = value in ("null", "") and type(None) in inner
            layer = OmegaConf.create()
            OmegaConf.update(layer, key, None if empty else _literal(value))
            return layer
        check_numbers(value)
        return OmegaConf.from_dotlist([word])
    except (OmegaConfBaseException, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{word!r}: {first_line(error)}") from None


@functools.cache  # two thirds of the time of reading a file; merging copies it
def _schema() -> DictConfig:
    """Return the defaults with their types, as nodes that merging may replace."""
    schema = OmegaConf.structured(Config)
    OmegaConf.set_readonly(schema, False)
    _unlock(schema)
    return schema


def _unlock(node: DictConfig) -> None:
    # A frozen dataclass becomes a read-only node; merging writes into that copy only, never into the dataclass.
    for child in node._content.values():
        if isinstance(child, DictConfig) and not child._is_none():
            OmegaConf.set_readonly(child, False)
            _unlock(child)


def _merge(schema: DictConfig, layer: DictConfig, where: str) -> DictConfig:
    for section in SECTIONS:
        if section in layer and not OmegaConf.is_dict(layer[section]):
            raise UserError(f"{where}{section} is a section; set keys inside it, as {section}.KEY=VALUE")
    # OmegaConf would keep the default of such a key.
    if missing := _keys(OmegaConf.to_container(layer), lambda value: value == "???"):
        raise UserError(f"{where}{missing[0]} is ???, which is no value; write one, or remove the key")
    try:
        return OmegaConf.merge(schema, layer)
    except ConfigKeyError as error:
        key = _whole(layer, error.full_key or "")
        raise UserError(f"{where}unknown key {key!r}; {_nearest(key)}") from None
    except (OmegaConfBaseException, TypeError) as error:  # TypeError: a list where the schema has a mapping
        lists = _keys(OmegaConf.to_container(layer), lambda value: isinstance(value, list))
        key = getattr(error, "full_key", None) or next(iter(lists), "")
        wanted = {name: _wanted(field) for name, field in options()}.get(key)
        raise UserError(f"{where}{key} takes {wanted}" if wanted else f"{where}{key}: {first_line(error)}") from None


def _keys(values: Any, holds: Callable[[Any], bool], key: str = "") -> list[str]:
    """Return the dotted keys of the values for which `holds` is true."""
    if isinstance(values, dict):
        return [name for inner, value in values.items() for name in _keys(value, holds, f"{key}.{inner}".strip("."))]
    return [key] if holds(values) else []


def _whole(layer: DictConfig, key: str) -> str:
    """Extend an unknown `key` by the only key inside it: "froget.batch" says more than "froget"."""
    node = OmegaConf.to_container(layer).get(key)
    while isinstance(node, dict) and len(node) == 1:
        (inner, node), *_ = node.items()
        key = f"{key}.{inner}"
    return key


def _nearest(key: str) -> str:
    """Suggest an option, a section or a command's word for an unknown key."""
    names, (section, _, last) = [name for name, _ in options()], key.rpartition(".")
    same = [name for name in names if name.rpartition(".")[2] == last]
    if same and not any(_likeness(key, name) >= MISSPELT for name in same):
        return f"did you mean {' or '.join(same)}?"
    # A key without its section is compared with the last words of options too.
    near = {name: max(_likeness(key, name), _likeness(key, name.rpartition(".")[2])) for name in same or names}
    if not section:
        near |= {name: _likeness(key, name) for name in SECTIONS}
    near |= {word: _likeness(last, word) for word in WORDS}
    best = max(near.values())
    if best < LIKE:
        return "`jaxforget run --help` lists the options"
    found = [name for name, likeness in near.items() if likeness == best]
    if found[0] in WORDS:
        return f"did you mean `{WORDS[found[0]]}`?"
    return f"did you mean {' or '.join(found)}?"


def _likeness(one: str, other: str) -> float:
    """Return the share of letters in common and in order, 0 to 1; 0 if both start differently.

    A typing error keeps one of the first two letters: "suit" is no misspelling of "out".
    """
    if one[:1] != other[:1] and one[1:2] != other[1:2] and sorted(one[:2]) != sorted(other[:2]):
        return 0.0
    return difflib.SequenceMatcher(None, one, other, autojunk=False).ratio()


def _wanted(field: dataclasses.Field) -> str:
    """Describe the values that an option takes."""
    if field.metadata["choices"]:
        return "one of " + ", ".join(field.metadata["choices"])
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if typing.get_origin(field.type) is dict:
        return f"a mapping of names to {'folders' if field.metadata['path'] else 'values'}"
    return " or ".join(words[kind] for kind in typing.get_args(field.type) or (field.type,))


def _expanded(config: Config) -> Config:
    """Expand `~` in places: a shell leaves it alone inside key=~/value."""

    def walk(node: Any) -> Any:
        changes = {}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if dataclasses.is_dataclass(value):
                changes[field.name] = walk(value)
            elif field.metadata.get("path") and isinstance(value, dict):
                changes[field.name] = {name: _home(place) for name, place in value.items()}
            elif field.metadata.get("path") and value is not None:
                changes[field.name] = _home(value)
        return dataclasses.replace(node, **changes)

    return walk(config)


def _home(place: str) -> str:
    return str(Path(place).expanduser()) if str(place).startswith("~/") or place == "~" else place


def _check(config: Config, where: Callable[..., str]) -> None:
    """Check choices and ranges, then options that must agree; `where(*names)` tells which file set them."""
    values = dataclasses.asdict(config)
    for name, field in options():
        section, _, key = name.rpartition(".")
        value = values[section][key] if section else values[key]
        if fault := _fault(value, field):
            raise UserError(f"{where(name)}{name} is {value!r}; it must be {fault}")
    for stage in TRAINING:
        train = values[stage]
        rows = train["batch"] + (config.retain.rows if stage == "forget" else 0)
        if rows % train["accumulate"]:
            place = where(f"{stage}.accumulate", f"{stage}.batch", "retain.rows")
            raise UserError(
                f"{place}{stage}.accumulate {train['accumulate']} does not divide the {rows} rows of a step; lower "
                f"it, or change {stage}.batch"
            )
        if train["max_steps"] is not None and train["warmup_steps"] >= train["max_steps"]:
            place, steps = where(f"{stage}.warmup_steps", f"{stage}.max_steps"), train["max_steps"]
            raise UserError(
                f"{place}{stage}.warmup_steps is {train['warmup_steps']}; it must be below max_steps {steps}"
            )
    retain = config.retain
    if (retain.weight > 0) != (retain.rows > 0):
        place = where("retain.weight", "retain.rows")
        raise UserError(f"{place}retain.weight {retain.weight} and retain.rows {retain.rows}: set both, or neither")
    if retain.weight > 0 and retain.path is None:
        place = where("retain.weight", "retain.path")
        raise UserError(f"{place}retain.weight is set but retain.path names no text; set it, or retain.weight=0")
    ilu = config.ilu
    if (ilu.weight > 0) != (ilu.rows > 0) or (ilu.weight > 0 and ilu.path is None):
        place = where("ilu.weight", "ilu.rows")
        raise UserError(f"{place}ilu.weight {ilu.weight} and ilu.rows {ilu.rows}: set both and ilu.path, or neither")
    if config.undo.alpha > 0 and retain.path is None:
        place = where("undo.alpha", "retain.path")
        raise UserError(f"{place}undo.alpha is set but retain.path names no text to distil on; set it, or undo.alpha=0")
    for option, names in (("forgotten", config.evals.forgotten), ("compare", config.evals.compare)):
        for name in names:
            if not name.strip() or name.startswith("/") or ".." in name.split("/"):  # results are files of that name
                key = f"evals.{option}.{name}"
                raise UserError(f"{where(key)}{key}: {name!r} is no name; write evals.{option}.NAME=FOLDER")
    for name, folder in config.evals.forgotten.items():
        if not isinstance(folder, str):
            key = f"evals.forgotten.{name}"
            raise UserError(f"{where(key)}{key}: give a name and the folder of its run, as evals.forgotten.NAME=RUN")
    for name, folder in config.evals.compare.items():
        key = f"evals.compare.{name}"
        if not isinstance(folder, str):
            raise UserError(f"{where(key)}{key}: give a name and its folder, as evals.compare.NAME=FOLDER")
        if name in RESERVED_NAMES:
            raise UserError(f"{where(key)}{key}: every run has a model of that name; give another name")


def _fault(value: Any, field: dataclasses.Field) -> str | None:
    """Describe the rule that `value` breaks; None where it breaks none."""
    rules, mapping = field.metadata, isinstance(value, dict)
    if rules["choices"] and value not in rules["choices"]:
        return "one of " + ", ".join(rules["choices"])
    if "\0" in (value if isinstance(value, str) else "".join(map(str, value.values())) if mapping else ""):
        return "a text without NUL characters"
    if value is None or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return "a finite number"
    if "above" in rules and not value > rules["above"]:
        return f"above {rules['above']}"
    if "least" in rules and value < rules["least"]:
        return f"at least {rules['least']}"
    if "below" in rules and value >= rules["below"]:
        return f"below {rules['below']}"
    most = rules.get("most", MOST if int in (field.type, *typing.get_args(field.type)) else math.inf)
    return f"at most {most:,}" if value > most else None
