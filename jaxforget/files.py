"""Artefacts on disk, written whole or not at all."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError


def write_text(path: str | Path, text: str) -> None:
    """Writes UTF-8 `text` to `path` atomically: a reader sees the old content or all of the new.

    Raises:
      OSError: it cannot be written; `filename` is `path`, which a full disk's own error would not say.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        # mkstemp makes files private; an artefact gets the permissions that an ordinary open() would have given.
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
    """Writes `value` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(
    path: str | Path, *, mend: str = "name a JSON file", pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """Reads a JSON file, with a byte order mark or without.

    Args:
      mend: what to do about a file that is missing or no JSON, for the message.
      pairs: makes an object of its (key, value) pairs; None makes a dict.

    Raises:
      UserError: the file is missing, unreadable or malformed; names it, the place and `mend`.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=pairs)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {mend}") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; {mend}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno} column {error.colno}: not JSON: {error.msg}; {mend}") from None
    except RecursionError:
        raise UserError(f"{path}: nested too deeply to be read as JSON; {mend}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; {mend}") from None


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty sibling folder that takes `path`'s place at a clean exit and is removed at any other.

    A killed process leaves at most a `.NAME.partial` folder, which the next attempt clears.
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
