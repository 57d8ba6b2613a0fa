"""A suite of evaluations: one file each, with the function that measures and the values that it receives.

A suite's rows are cached. They are measured again when a keyword value of `measure` changes: sources of text, files and
models count by their content, everything else by its value; layout options (`jaxforget.config.option`) do not count. So
a suite never lists by hand what its rows depend on.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxforget.config import Config
from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals.rows import Row
from jaxforget.files import read_json, write_json


class MissingInput(UserError):
    """Something that a suite needs is not set or not there; the suite is left out, the others are measured."""


@dataclasses.dataclass(frozen=True)
class ModelReference:
    """Another model of the run by its name; `measure` receives the loaded model in its place."""

    name: str


@dataclasses.dataclass(frozen=True)
class Workspace:
    """The files of a suite beside its rows: results of parts of `measure`, and pages to read.

    Attributes:
      folder: the suite's own folder.
      model: name of the measured model.
      inputs: fingerprints of the measured model.
      describe: keyword values -> fingerprints.
      writes: True on the one process that writes files.
      wait: returns once every process has called it with the same text.
      say: prints a line for the user.
      written: names of the files written; the rows count as up to date only while these exist.
    """

    folder: Path
    model: str
    inputs: Mapping[str, str]
    describe: Callable[[Mapping[str, Any]], dict[str, str]]
    writes: bool
    wait: Callable[[str], None]
    say: Callable[[str], None]
    written: list[str] = dataclasses.field(default_factory=list)

    def write(self, name: str, value: Any) -> None:
        """Write `value` as JSON to the file `name`, which must exist for the rows to be up to date."""
        if self.writes:
            write_json(self.folder / name, value)
        self.written.append(name)

    def cached(self, name: str, function: Callable[..., list[Any]], **values: Any) -> list[Any]:
        """Return `function(**values)`, from the file `name` if it was computed from equal values and the same model."""
        path, inputs = self.folder / name, {**self.inputs, **self.describe(values)}
        stored = read_json(path) if path.is_file() else None
        self.wait(f"{path}: read")  # before the writing process replaces what the others read
        if isinstance(stored, dict) and stored.get("inputs") == inputs and isinstance(stored.get("values"), list):
            return stored["values"]
        made = function(**values)
        if self.writes:
            write_json(path, {"inputs": inputs, "values": made})
        self.wait(f"{path}: written")
        return made


@dataclasses.dataclass(frozen=True)
class RunInputs:
    """The inputs that a run offers to a suite for one of its models.

    Attributes:
      config: the run's configuration.
      model: name of the measured model.
      models: names of all models in the tables.
      target: the text to forget.
      retained: the text to keep, or None.
      heldout: general text, or None.
      anchors: path of the run's dictionary; the file may not exist.
      workspace: the suite's files.
    """

    config: Config
    model: str
    models: tuple[str, ...]
    target: Source
    retained: Source | None
    heldout: Source | None
    anchors: Path
    workspace: Workspace

    def reference(self, name: str) -> ModelReference | None:
        """Return a reference to the model `name`; None if the run has no such model."""
        return ModelReference(name) if name in self.models else None

    def dictionary(self) -> Path | None:
        """Return the path of the run's dictionary; None if there is none."""
        return self.anchors if self.anchors.is_file() else None

    def required_path(self, key: str, content: str, *, folder: bool = False) -> Path:
        """Return the path in the option evals.`key`.

        Args:
          key: the option's name.
          content: what the option names, for the message.
          folder: whether it must be a folder.

        Raises:
          MissingInput: the option is not set, or there is no such file or folder.
        """
        place = getattr(self.config.evals, key)
        if place is None:
            raise MissingInput(f"evals.{key} is not set; it names {content}")
        if folder and Path(place).is_file():
            raise MissingInput(f"evals.{key}={place}: is a file; it names {content}")
        if not Path(place).exists():
            raise MissingInput(f"evals.{key}={place}: no such file or folder; it names {content}")
        return Path(place)

    def required_source(self, key: str, content: str) -> Source:
        """Return the source of text in the option evals.`key`, read with corpus.field; see `required_path`."""
        place = getattr(self.config.evals, key)
        # A data set (tfds:NAME) is no path, and is found missing when it is read.
        path = place if place is not None and ":" in place else self.required_path(key, content)
        return Source(path, self.config.corpus.field)

    def passages(self, longest: int) -> dict[str, Any]:
        """Return the options of passages of the target: their source, length in tokens and greatest number."""
        length = min(longest, self.config.blocks.length)
        return {"data": self.target, "length": length, "limit": self.config.evals.passages}


@dataclasses.dataclass(frozen=True)
class Suite:
    """One evaluation.

    Attributes:
      summary: what it measures, in a few words.
      measure: `measure(model, **options) -> list[Row]`.
      options: the keyword values of `measure` for one model of a run; raises `MissingInput` without them.
      excluded_models: names of models that are not measured.
      disabled_reason: a message if measuring is impossible for a reason that a dry run does not share, else None.
      preview: the text that a dry run shows about the calls of an endpoint; None if the suite makes none.
    """

    summary: str
    measure: Callable[..., list[Row]]
    options: Callable[[RunInputs], dict[str, Any]]
    excluded_models: tuple[str, ...] = ()
    disabled_reason: Callable[[RunInputs], str | None] = lambda run: None
    preview: Callable[[RunInputs], str] | None = None
