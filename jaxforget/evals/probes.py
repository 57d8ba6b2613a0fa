"""The user's own questions: probes with answers, prompts to watch."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError
from jaxforget.files import read_json


@dataclasses.dataclass(frozen=True)
class Probe:
    """A prompt and the answer that would follow it; the answer starts with its own space where one belongs."""

    prompt: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Probes:
    """familiarity: answers only the target gives; retained: the same kind of question about other text."""

    familiarity: tuple[Probe, ...] = ()
    retained: tuple[Probe, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prompts:
    """dynamics: whose next tokens are followed through the steps; completions: completed by every model."""

    dynamics: tuple[str, ...] = ()
    completions: tuple[str, ...] = ()


def load_probes(path: str | Path | None) -> Probes:
    """Reads `{"familiarity": [{"prompt", "answer"}], "retained": [...]}`; None gives none."""
    if path is None:
        return Probes()
    groups = _groups(path, ("familiarity", "retained"))
    return Probes(
        **{
            name: tuple(read_probe(item, f"{path}: {name}[{i}]") for i, item in enumerate(items))
            for name, items in groups.items()
        }
    )


def load_prompts(path: str | Path | None) -> Prompts:
    """Reads `{"dynamics": [prompt], "completions": [prompt]}`; None gives none."""
    if path is None:
        return Prompts()
    groups = _groups(path, ("dynamics", "completions"))
    for name, items in groups.items():
        for i, item in enumerate(items):
            if not isinstance(item, str) or not item.strip():
                raise UserError(f"{path}: {name}[{i}] is {item!r}; it must be a text that is not empty")
    return Prompts(**{name: tuple(items) for name, items in groups.items()})


def _groups(path: str | Path, names: tuple[str, ...]) -> dict[str, list[Any]]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: it must be an object with the lists {' and '.join(names)}")
    for name, items in value.items():
        if name not in names:
            raise UserError(f"{path}: unknown key {name!r}; the keys are {' and '.join(names)}")
        if not isinstance(items, list):
            raise UserError(f"{path}: {name} must be a list")
    return value


def read_probe(item: Any, where: str) -> Probe:
    """A probe from what a JSON file holds; `where` is what a fault is told beside."""
    for field in ("prompt", "answer"):
        if not isinstance(item, dict) or not isinstance(item.get(field), str) or not item[field].strip():
            raise UserError(
                f'{where}: needs {{"prompt": text, "answer": text}}, neither empty; {field} is missing or empty'
            )
    return Probe(item["prompt"], item["answer"])
