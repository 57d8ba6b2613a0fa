"""Options that name a place: check that the place is there, and name the option in an error about it."""

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from jaxforget.config.effects import stages_of, value_of
from jaxforget.config.schema import Config, options
from jaxforget.errors import UserError

STAGES = {"prepare", "eval", "export", "report"}  # stages that are not named like a section
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DATA_SET = re.compile(r"([a-z]\w*)(/[\w.+-]+)?(:[\d.*]+)?")


def check_places(config: Config, stages: Collection[str]) -> None:
    """Check that every place which the named stages read exists, without importing JAX.

    A name that may be one of the hub or of a data set is left to the code that reads it.

    Raises:
      UserError: a place is missing; names the option.
    """
    unread = _unread(config)
    for name, place in _places(config):
        option = name if name in _FIELDS else name.rpartition(".")[0]
        kind, readers = _FIELDS[option].metadata["path"], stages_of(option, _FIELDS[option])
        if not any((option, stage) not in unread for stage in set(readers) & set(stages)):
            continue
        if kind in ("model", "folder") and os.path.isfile(place):
            folder = "the model's folder, the one that holds config.json" if kind == "model" else "a folder"
            raise UserError(f"{name}: {place}: is a file; give {folder}")
        if not os.path.exists(place) and (fault := _missing(place, kind)):
            raise UserError(f"{name}: {place}: {fault}")


def _missing(place: str, kind: str) -> str | None:
    """Describe a place that does not exist; None if it may be the name of something that is not on this disk."""
    if os.path.islink(place):
        return "a link to nothing; give the file or folder itself"
    if kind == "text":
        named = DATA_SET.fullmatch(place)
        prepared = Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
        if place.startswith("tfds:") or (named and (prepared / named[1]).is_dir()):
            return None
        what = "file, folder or tensorflow-datasets data set" if named else "file or folder"
        return f"no such {what}; give a text, a folder of texts, or tfds:NAME"
    if kind == "model":
        if "://" in place or HUB_ID.fullmatch(place):
            return None
        return "no such folder; give one, a hub id (owner/name) or a gs:// address"
    return "no such folder; give one" if kind == "folder" else "no such file; give one"


def _unread(config: Config) -> set[tuple[str, str]]:
    """Pairs (option, stage) of places that the stage does not read under this configuration."""
    found = config.anchors.path is None and config.anchors.extractor != "none"
    reads = {
        "corpus.path": {"prepare": True, "reinforce": False, "anchors": found},
        "retain.path": {"prepare": config.retain.rows > 0 or config.undo.alpha > 0, "anchors": found},
        "ilu.path": {"prepare": config.ilu.weight > 0},
        "anchors.model": {"anchors": found and config.anchors.extractor == "local"},
    }
    for name in ("model.folder", "model.reinforced"):
        reads[name] = {"anchors": found and config.anchors.extractor == "models"}
    return {(option, stage) for option, stages in reads.items() for stage, read in stages.items() if not read}


@contextlib.contextmanager
def naming_options(config: Config) -> Iterator[None]:
    """Prefix an error that starts with a place with the option of `config` that named the place."""
    try:
        yield
    except UserError as fault:
        if (name := option_of(str(fault), config)) is not None:
            # The same exception goes on, so that its type and traceback are kept.
            fault.args = (f"{name}: {fault}",)
        raise


def option_of(fault: str, config: Config) -> str | None:
    """Return the option whose place, or a file in it, the text `fault` starts with; of several the longest place's.

    `out` is no candidate: the run itself wrote the files in its folder.
    """
    found = [(len(told), name) for name, place in _places(config) for told in _told(place) if _begins(fault, told)]
    return max(found, key=lambda pair: pair[0])[1] if found else None


_FIELDS = dict(options())


def _places(config: Config) -> Iterator[tuple[str, str]]:
    """Yield every option that names a place and is set, as ("corpus.path", "texts"); `out` is left out."""
    for name, field in _FIELDS.items():
        value = value_of(config, name)
        if field.metadata["path"] in (None, "run") or value is None:
            continue
        if isinstance(value, dict):
            yield from ((f"{name}.{inner}", place) for inner, place in value.items())
        else:
            yield name, value


def _told(place: str) -> set[str]:
    """Spellings of a place in errors: as given, as a path, as a data set.

    Names of stages and sections are left out, because other errors start with them.
    """
    return {place, str(Path(place)), f"tfds:{place}"} - {name.partition(".")[0] for name in _FIELDS} - STAGES


def _begins(fault: str, place: str) -> bool:
    return fault.startswith(place) and fault[len(place) :][:1] in ("", ":", "/", " ", ",", "[")
