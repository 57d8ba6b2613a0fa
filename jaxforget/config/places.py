"""Which option named a place: what reads a file knows the file, and not why it was to be read."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxforget.config.schema import Config, options
from jaxforget.errors import UserError

STAGES = {"prepare", "eval", "export", "report"}  # that are no sections


@contextlib.contextmanager
def naming_options(config: Config) -> Iterator[None]:
    """While it lasts, a fault that begins with a place which an option of `config` gave begins with that option."""
    try:
        yield
    except UserError as fault:
        if (name := option_of(str(fault), config)) is not None:
            # The fault itself, so that its kind and its traceback stay what they are.
            fault.args = (f"{name}: {fault}",)
        raise


def option_of(fault: str, config: Config) -> str | None:
    """The path-valued option whose place, or a file in it, `fault` begins with; of several the longest place's.

    `out` is none of them: what lies in a run's folder was put there by the run.
    """
    found = [(len(told), name) for name, place in _places(config) for told in _told(place) if _begins(fault, told)]
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _places(config: Config) -> Iterator[tuple[str, str]]:
    """Every path-valued option that is set, as ("corpus.path", "texts")."""
    for name, field in options():
        section, _, key = name.rpartition(".")
        if not section or not field.metadata.get("path"):
            continue
        value: Any = getattr(getattr(config, section), key)
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", place) for inner, place in value.items())
        elif value is not None:
            yield name, value


def _told(place: str) -> set[str]:
    """How faults spell a place: as it was given, as a path, as a data set; but for what stages and sections are called,
    with which other faults begin."""
    return {place, str(Path(place)), f"tfds:{place}"} - {name.partition(".")[0] for name, _ in options()} - STAGES


def _begins(fault: str, place: str) -> bool:
    return fault.startswith(place) and fault[len(place) :][:1] in ("", ":", "/", " ", ",", "[")
