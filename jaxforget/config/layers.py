"""Read a YAML file of settings, on top of the file that its key `like` names."""

import io
import re
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from jaxforget.errors import UserError, first_line

# Numbers of YAML 1.1 that are another number in YAML 1.2, or none: octal 010, sexagesimal 1:30, binary 0b1.
OLD_NUMBER = re.compile(r"[-+]?0[0-9_]+|[-+]?0b.*|.*:.*")


def check_numbers(text: str) -> None:
    """Refuse numbers that YAML 1.1, which OmegaConf reads, does not read as the decimal numbers that they look like.

    These are 010 (octal), 0b1 (binary) and 1:30 (sexagesimal).

    Raises:
      ValueError: the text has such a number, which the message names.
      yaml.YAMLError: the text is not YAML.
    """
    nodes, seen = [yaml.compose(text, Loader=yaml.SafeLoader)], set()
    while nodes:
        node = nodes.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            nodes += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif node.tag.rpartition(":")[2] in ("int", "float") and OLD_NUMBER.fullmatch(node.value):
            raise ValueError(f"{node.value} is no decimal number; write it as one, or a text in quotes")


def read_layers(path: Path, over: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a YAML file on top of the file that its key `like` names, relative to its own folder."""
    values = _read_yaml(path)
    like = values.pop("like", None)
    if like is None:
        return values
    if not isinstance(like, str):
        raise UserError(f"{path}: like is {like!r}; name a YAML file, relative to this one")
    below = path.parent / like
    if not below.is_file():
        raise UserError(f"{path}: like: {like}: no such file beside it")
    if below.resolve() in over:
        raise UserError(f"{path}: like: {like} leads back to itself; take one of them out")
    return _laid_over(read_layers(below, (*over, below.resolve())), values)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge two layers key by key; `above` wins. An empty section changes nothing."""
    found = dict(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            value = _laid_over(below[key], value)
        elif value is None and isinstance(below.get(key), dict):
            value = below[key]
        found[key] = value
    return found


def _read_yaml(path: Path) -> dict[str, Any]:
    file = path / "config.yaml" if path.is_dir() else path
    try:
        text = file.read_text(encoding="utf-8")  # once: it may be a pipe
        check_numbers(text)
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)))
    except FileNotFoundError:
        if path.is_dir():
            raise UserError(f"{path}: holds no config.yaml, so it is no run's folder; give another") from None
        if "=" in str(path):
            raise UserError(f"{quotable(str(path))}: a configuration comes before options: CONFIG key=value") from None
        raise UserError(f"{path}: no such file; give a YAML file or a run's folder") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1} column {mark.column + 1}:" if mark else ""
        raise UserError(f"{file}:{where} not YAML: {getattr(error, 'problem', None) or first_line(error)}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start}; a configuration is a YAML text") from None
    except RecursionError:
        raise UserError(f"{file}: nested too deeply to be a configuration") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}; give a YAML file") from None
    except (OmegaConfBaseException, ValueError) as error:  # ValueError: a number of more than 4,300 digits
        raise UserError(f"{file}: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise UserError(f"{file}: a configuration is a mapping of keys to values; see configs/")
    return values


def quotable(word: str) -> str:
    """Hide the value of a word that may hold a secret."""
    key, sign, _ = word.partition("=")
    return f"{key}{sign}***" if "key" in key.lower().replace("per_key", "") else word
