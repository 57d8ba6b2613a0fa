"""What the commands' parsers share: argparse whose faults are one line, option tables, and reading CONFIG."""

import argparse
import dataclasses
import math
from collections.abc import Container, Sequence
from pathlib import Path
from typing import NoReturn

from jaxforget.config import Config, load_config, options
from jaxforget.errors import UserError


class Parser(argparse.ArgumentParser):
    """argparse, but a fault is one line like every other."""

    def error(self, message: str) -> NoReturn:
        """Ends with status 2."""
        self.exit(2, f"jaxforget: {' '.join(message.split())}; see {self.prog} --help\n")


def add_config(parser: argparse.ArgumentParser, what: str = "YAML file or run's folder") -> None:
    """The arguments CONFIG and key=value."""
    parser.add_argument("config", metavar="CONFIG", help=what)
    # A default: without one argparse tells users that it is required.
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="options on top")


def number(text: str) -> float:
    """A finite number."""
    if not math.isfinite(value := float(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return value


def option_table(sections: Container[str] | None = None) -> str:
    """Options, their help and defaults, a line each: those of `sections` ("" = of none), or all; for an epilog."""
    lines = []
    for name, field in options():
        if sections is not None and name.rpartition(".")[0] not in sections:
            continue
        default = "{}" if field.default_factory is dict else _shown(field.default)
        choices = f" ({' | '.join(field.metadata['choices'])})" if len(field.metadata["choices"]) > 1 else ""
        lines.append(f"  {name:27} {field.metadata['help']}{choices} [{default}]")
    return "\n".join(lines).replace("%", "%%")


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read_config(source: str, overrides: Sequence[str]) -> Config:
    """The configuration of a command: a file, or a run's folder, in which case that folder is also `out`."""
    config = load_config(source, overrides)
    if Path(source).is_dir() and not any(word.startswith("out=") for word in overrides):
        # The folder may have been moved or copied since its configuration was saved in it.
        config = dataclasses.replace(config, out=str(source))
    return config


def check_seed(seed: int) -> None:
    """Raises `UserError` for what no generator takes."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: give a whole number from 0 to {2**32 - 1}")
