"""Tools that the commands share: a parser with one-line errors, tables of options, and reading CONFIG."""

import argparse
import dataclasses
import functools
import math
import textwrap
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxforget.config import Config, load_config, options, stages_of
from jaxforget.errors import UserError

WIDTH = 100  # columns of a help text
COLUMN = 30  # where the descriptions of options start
LAYOUT = functools.partial(argparse.RawDescriptionHelpFormatter, width=WIDTH)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like all errors of the program."""

    def error(self, message: str) -> NoReturn:
        """End the process with status 2."""
        self.exit(2, f"jaxforget: {' '.join(message.split())}; see {self.prog} --help\n")

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse ignores errors of this write: `--help > /dev/full` would end with status 0.
        file.write(message)
        file.flush()


def add_config(parser: argparse.ArgumentParser, what: str = "YAML file or run's folder") -> None:
    """Add the arguments CONFIG and key=value."""
    parser.add_argument("config", metavar="CONFIG", help=what)
    # Without a default argparse would call the overrides required.
    parser.add_argument("overrides", metavar="key=value", nargs="*", default=[], help="options that override CONFIG")


def number(text: str) -> float:
    """Parse a finite number."""
    if not math.isfinite(value := float(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number")
    return value


def options_of(*stages: str) -> list[str]:
    """Return the names of the options that matter to any of these stages."""
    return [name for name, field in options() if set(stages) & set(stages_of(name, field))]


def option_table(names: Container[str] | None = None, *, essential: bool = False) -> str:
    """Format options for the end of a help text: a group per section, a line or a few per option.

    Args:
      names: the options to list; None lists all.
      essential: list the essential options first, in a group of their own.
    """
    chosen = [(name, field) for name, field in options() if names is None or name in names]
    titles = {field.name: (field.type.__doc__ or "").split("\n")[0] for field in dataclasses.fields(Config)}
    lines: list[str] = []
    if essential:
        first = [pair for pair in chosen if pair[1].metadata["essential"]]
        lines += ["essential options", *_lines(first), ""]
        chosen = [pair for pair in chosen if pair not in first]
    groups = dict.fromkeys(name.rpartition(".")[0] for name, _ in chosen)
    for group in groups:
        if group or essential:
            lines += ["", *textwrap.wrap(f"{group}: {titles[group]}" if group else "general", WIDTH)]
        lines += _lines(pair for pair in chosen if pair[0].rpartition(".")[0] == group)
    return "\n".join(lines).strip("\n").replace("\n\n\n", "\n\n").replace("%", "%%")


def _lines(chosen: Iterable[tuple[str, dataclasses.Field]]) -> list[str]:
    found = []
    for name, field in chosen:
        default = "{}" if field.default_factory is dict else _shown(field.default)
        choices = f" ({' | '.join(field.metadata['choices'])})" if len(field.metadata["choices"]) > 1 else ""
        text = f"{field.metadata['help']}{choices} [{default}]"
        start = f"  {name:{COLUMN - 3}} "
        wrapped = textwrap.wrap(text, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False)
        found += [start + wrapped[0], *(" " * COLUMN + line for line in wrapped[1:])]
    return found


def _shown(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def read_config(source: str, overrides: Sequence[str]) -> Config:
    """Read the configuration of a command from a file or a run's folder.

    Raises:
      UserError: `source` is an option: CONFIG was left out.
    """
    if "=" in source and not Path(source).exists() and source.partition("=")[0] in dict(options()):
        raise UserError(f"{source}: CONFIG comes before the options: a YAML file or a run's folder")
    return load_config(source, overrides)


def check_seed(seed: int) -> None:
    """Raise `UserError` for a seed that no random generator takes."""
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed {seed}: give a whole number from 0 to {2**32 - 1}")
