"""Files on disk: written completely or not at all, and read as JSON that fits a schema."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import pydantic

from jaxforget.errors import UserError

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically: a reader sees either the old content or all of the new content.

    Raises:
      OSError: the file cannot be written; `filename` is `path`, also for a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        # mkstemp creates private files, but this one should have the permissions of an ordinary open().
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def refuse_lfs_pointer(path: str | Path) -> None:
    """Raise `UserError` if `path` holds a Git LFS pointer, which a clone without LFS leaves in a large file's place."""
    with open(path, "rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(f"{path}: is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository")


def read_json(
    path: str | Path, *, remedy: str = "name a JSON file", pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Read a JSON file, with or without a byte order mark.

    Args:
      remedy: the remedy for a file that is missing or not JSON, for the message.
      pairs: converts the (key, value) pairs of an object; None makes a dict.

    Raises:
      UserError: the file is missing, unreadable or malformed; the message names the file, the place and `remedy`.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; {remedy}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {remedy}") from None
    try:
        return parse_json(text, str(path), remedy=remedy, pairs=pairs)
    except UserError:
        refuse_lfs_pointer(path)
        raise


def parse_json(
    text: str,
    where: str,
    *,
    remedy: str,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    lines: bool = True,
) -> Any:
    """Parse JSON text.

    Args:
      where: the file, or the place in it, for the message.
      remedy, pairs: as in `read_json`.
      lines: name the line of an error beside its column.

    Raises:
      UserError: the text is not JSON, is nested too deeply, or holds a number of more digits than Python reads.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}" if lines else f"column {error.colno}"
        raise UserError(f"{where}: {place}: not JSON: {error.msg}; {remedy}") from None
    except _DoubledKeyError as error:
        raise UserError(f"{where}: has the key {error.args[0]!r} twice in one object; remove one") from None
    except RecursionError:
        raise UserError(f"{where}: nested too deeply to be read as JSON; {remedy}") from None
    except ValueError:
        digits = sys.get_int_max_str_digits()
        raise UserError(f"{where}: holds a number of more than {digits:,} digits; {remedy}") from None


class _DoubledKeyError(ValueError):
    """An object of a JSON file has a key twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of an object as a dict; of two values of one key a dict would silently keep the last."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DoubledKeyError(key)
        found[key] = value
    return found


def _check_text(text: str) -> str:
    if not text.strip():
        raise ValueError("must be a text that is not empty")
    if re.search("[\ud800-\udfff]", text):
        raise ValueError("must not hold half of a \\u surrogate pair")
    return text


# A string that a tokenizer accepts and that is not blank, for the schemas of `check` and `read_model`.
Text = Annotated[str, pydantic.AfterValidator(_check_text)]


def check(value: Any, schema: Any, where: str, *, remedy: str) -> Any:
    """Convert a value read from JSON to `schema`, or say in one line why it does not fit.

    Args:
      value: the parsed JSON.
      schema: a pydantic model, a dataclass or a type, such as `dict[str, list[Text]]`.
      where: the file and the place in it, for the message.
      remedy: the remedy, for the message.

    Raises:
      UserError: the value does not fit; the message names `where`, the key, the fault and `remedy`.
    """
    try:
        return pydantic.TypeAdapter(schema).validate_python(value)
    except pydantic.ValidationError as error:
        fault = _fault(error.errors(include_url=False, include_context=False)[0])
        raise UserError(f"{where}: {fault}; {remedy}") from None


def read_model(path: str | Path, schema: Any, *, remedy: str = "name a JSON file") -> Any:
    """Read a JSON file as `schema`; see `read_json` and `check`.

    Raises:
      UserError: the file is missing, malformed, has a key twice in one object, or does not fit.
    """
    return check(read_json(path, remedy=remedy, pairs=_unique), schema, str(path), remedy=remedy)


_JSON_NAMES = {type(None): "null", bool: "a boolean", int: "a number", float: "a number", str: "a string",
               list: "a list", dict: "an object"}  # fmt: skip


def _fault(error: Mapping[str, Any]) -> str:
    """Return one of pydantic's errors as "PLACE is a list, but must be a string"."""
    place = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error["loc"]).lstrip(".")
    if error["type"] == "missing":
        return f"no field {place!r}"
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"unknown key {place!r}"
    said = error["msg"].removeprefix("Value error, ").replace("should", "must")
    if error["type"] in ("model_type", "dataclass_type", "dict_type"):
        said = "must be an object"
    said = re.sub(r"^.*?\b(?=must )", "", said).replace(" after validation, not 0", "")
    for old, new in (("a valid integer", "a whole number"), ("a valid tuple", "a list"), ("a valid ", "a ")):
        said = said.replace(old, new)
    value = error["input"]
    seen = repr(value)
    shown = _JSON_NAMES.get(type(value), type(value).__name__) if len(seen) > 40 or not value else seen
    return f"{place or 'it'} is {shown}, but {said}"


def files_below(folder: str | Path) -> tuple[list[Path], list[Path]]:
    """Return all files below a folder, through links to folders, too, and the links whose target does not exist.

    A folder that several paths reach is read once: under its real path if that lies below `folder`, else under the
    first link to it. Hidden names, pipes and sockets are left out. Both lists are sorted by path.

    Raises:
      UserError: a folder cannot be read.
    """
    files, broken, met = [], [], set()
    folders, links = [Path(folder)], []
    while folders or links:
        # Links are followed after the whole real tree is known, so that a real folder never hides behind one.
        here = folders.pop() if folders else links.pop(0)
        if (real := os.path.realpath(here)) in met:
            continue
        met.add(real)
        try:
            entries = sorted(here.iterdir())
        except OSError as error:
            raise UserError(f"{here}: cannot be read: {error.strerror}; allow it, or remove it") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
            elif entry.is_file():
                files.append(entry)
            elif entry.is_symlink():
                broken.append(entry)
    return sorted(files), sorted(broken)


def hash_file(path: str | Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_files(files: Iterable[Path], folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of files below a folder, by their relative names: {NAME: {"bytes": .., "sha256": ..}}."""
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(files)
    }


def find_difference(written: Mapping[str, Mapping[str, Any]], folder: Path) -> str | None:
    """Return one line about the first file that is not as `hash_files` found it, or None.

    Raises:
      OSError: a file exists and cannot be read.
    """
    for name, entry in written.items():
        path = folder / name
        if not path.is_file():
            return f"{path}: is gone"
        if (size := path.stat().st_size) != entry["bytes"]:
            return f"{path}: is damaged: {size:,} bytes, where {entry['bytes']:,} were written"
        if hash_file(path) != entry["sha256"]:
            return f"{path}: is damaged: its content is not what was written (SHA-256 differs)"
    return None


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `path` after the block; an exception removes it instead.

    A killed process leaves at most a folder `.NAME.partial`, which the next attempt clears.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    old = path.parent / f".{path.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(partial, path)
    shutil.rmtree(old, ignore_errors=True)
