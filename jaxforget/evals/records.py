"""Question files: a JSON list or JSON lines of records, checked field by field before a model is loaded."""

import dataclasses
import json
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from jaxforget.errors import UserError
from jaxforget.files import Text, check, parse_json, read_json

Texts = Annotated[list[Text], pydantic.Field(min_length=1)]
Number = Annotated[int, pydantic.Field(strict=True, ge=0)]


@dataclasses.dataclass(frozen=True)
class Record:
    """The checked fields of one record, and its location for messages."""

    values: dict[str, Any]
    where: str

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)


def read_records(path: str | Path, fields: Mapping[str, Any]) -> list[Record]:
    """Read the records of a .jsonl file (one a line) or a .json file (a list, or one a line); other fields are ignored.

    Args:
      path: the file.
      fields: name -> pydantic type of its value; a field whose type includes None may be missing.

    Raises:
      UserError: the file is missing, empty or malformed, or a field is missing or unfit; names the file, the line
        (or the item's number from 0) and the field.
    """
    optional = {name for name, kind in fields.items() if type(None) in typing.get_args(kind)}
    schema = pydantic.create_model(
        "Record", **{name: (kind, None if name in optional else ...) for name, kind in fields.items()}
    )
    records = []
    for where, value in _values(Path(path)):
        found = check(value, schema, where, remedy=f"give the fields {', '.join(fields)}")
        records.append(Record(found.model_dump(exclude_none=True), where))
    return records


def read_texts(path: str | Path) -> list[str]:
    """Read a list of texts, or of records with a field "text", from .json or .jsonl.

    Raises:
      UserError: as `read_records`.
    """
    texts = []
    for where, value in _values(Path(path)):
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{where}: must be a text that is not empty, or an object with one in its field 'text'")
        texts.append(text)
    return texts


def _values(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield (location for messages, value) of every record; raise where there is none."""
    found = False
    for item in _lines(path) if path.suffix == ".jsonl" or _holds_lines(path) else _items(path):
        found = True
        yield item
    if not found:
        raise UserError(f"{path}: holds no records; an empty split cannot be scored")


def _holds_lines(path: Path) -> bool:
    """Return True if a .json file begins with an object on one line: some benchmarks publish JSON lines so."""
    if not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and bool(value)


def _items(path: Path) -> Iterator[tuple[str, Any]]:
    values = read_json(path)
    if not isinstance(values, list):
        raise UserError(f"{path}: must be a JSON list of records, or hold one record a line")
    for number, value in enumerate(values):
        yield f"{path}: item {number}", value


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; name a file of JSON lines") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; name a file of JSON lines") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            where = f"{path}: line {number}"
            yield where, parse_json(line, where, remedy="correct that line", lines=False)


def published_file(folder: Path, flat: str, *published: str) -> Path:
    """Return the path of a benchmark's file, under its flat name or under a name that the benchmark publishes.

    Args:
      folder: the benchmark's folder.
      flat: the file's name in a flat folder; it is preferred.
      published: paths in the folder as the benchmark publishes it; at most one of them may exist.

    Raises:
      UserError: none of the files exists, or several of the published ones.
    """
    if (folder / flat).is_file():
        return folder / flat
    found = [name for name in published if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder / flat}: no such file, nor {' or '.join(published)} as published; add one of them")
    if len(found) > 1:
        raise UserError(f"{folder}: holds {' and '.join(found)}; keep one of them, or name it {flat}")
    return folder / found[0]
