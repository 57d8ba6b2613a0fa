"""The folder of a run: which folders a run may fill, and the lock that keeps two commands from filling one."""

import contextlib
import dataclasses
import errno
import fcntl
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from jaxforget.config import Config, load_config, options, value_of
from jaxforget.errors import UserError
from jaxforget.processes import on_first_process
from jaxforget.stages.run import Run

# Names that a run writes into its folder: no input may be among them.
PRODUCTS = ("anchors.json", "blocks", "reinforced", "unlearned", "undone", "export", "labels", "checkpoints", "evals")
LOCK = ".lock"
# Names that an empty folder may hold: those of file systems, of `jaxforget profile` and `compare`, and of a run killed
# at its start.
HARMLESS = {"lost+found", ".DS_Store", "xprof", LOCK, "compare", "compare.json", "compare.md", "compare.svg"}
HARMLESS_STARTS = (".nfs", ".manifest.json.", ".config.yaml.")
TEMPORARY = re.compile(r"\..+\.(json|yaml|html|md|csv|txt)\.[a-z0-9_]{8}")
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


REMEDY = "name an empty or a new folder, or add --force"


def check_folder(run: Run, *, force: bool = False, remedy: str = REMEDY) -> None:
    """Check that `out` names a folder that the run may fill.

    Args:
      run: the run; only its configuration is read.
      force: accept a folder that holds other files or lies inside another run.
      remedy: the remedy for such a folder, for the message.

    Raises:
      UserError: `out` is no folder of this machine, holds other files, overlaps an input, or is inside another run.
    """
    config, folder = run.config, run.folder
    if "://" in (config.out or ""):
        raise UserError(f"out={config.out}: a run fills a local folder; mount the bucket (gcsfuse) and name the mount")
    if os.path.islink(folder) and not folder.exists():
        raise UserError(f"out={folder}: is a link to nothing; name a folder, as out=runs/NAME")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"out={folder}: is a file; name a folder, as out=runs/NAME")
    above = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    if not above.is_dir():
        kind = "a link to nothing or in a circle" if above.is_symlink() else "a file"
        raise UserError(f"out={folder}: {above} is {kind}; name a folder, as out=runs/NAME")
    if not os.access(above, os.W_OK | os.X_OK):
        raise UserError(f"out={folder}: {above} cannot be written; allow it, or name another folder")
    _check_overlap(config, folder)
    if not force:
        _check_content(config, folder, remedy)


def _check_content(config: Config, folder: Path, advice: str) -> None:
    """Refuse a folder whose files no run wrote, and a folder inside another run."""
    here = _real(folder)
    for above in here.parents:
        if (above / "manifest.json").is_file() and (above / "config.yaml").is_file():
            raise UserError(f"out={folder}: lies inside the run {above}; {advice}")
    if not folder.is_dir() or (folder / "manifest.json").is_file():
        return
    names = {name for name in os.listdir(folder) if not name.startswith(HARMLESS_STARTS)} - HARMLESS
    if "config.yaml" in names and load_config(folder) != _at(config, folder):
        raise UserError(f"{folder / 'config.yaml'}: no run wrote it, and this run would replace it; {advice}")
    if others := sorted(names - {"config.yaml"}):
        raise UserError(f"out={folder}: holds files that no run wrote ({', '.join(others[:3])}); {advice}")


def _at(config: Config, folder: Path) -> Config:
    """The configuration as `load_config` reads it from the folder."""
    return dataclasses.replace(config, out=str(folder))


def _check_overlap(config: Config, folder: Path) -> None:
    """Refuse a folder inside an input, and an input among the files that the run writes."""
    inputs = [
        (name, place)
        for name, field in options()
        if field.metadata["path"] not in (None, "run") and isinstance(place := value_of(config, name), str)
    ]
    for name, place in inputs:
        if os.path.isdir(place) and _real(folder).is_relative_to(_real(place)):
            raise UserError(f"out={folder}: lies inside {name}={place}, which the run reads; name another folder")
    written = [_real(folder / name) for name in PRODUCTS]
    for name, place in inputs:
        if name != "model.reinforced" and any(_real(place).is_relative_to(path) for path in written):
            raise UserError(f"{name}={place}: out={folder} would write over it; name another out=")


def _real(path: str | Path) -> Path:
    # Path.resolve raises on a loop of links in Python 3.11 and 3.12.
    return Path(os.path.realpath(path))


@contextlib.contextmanager
def locked(run: Run) -> Iterator[None]:
    """Hold the lock of the run's folder, which is made if it is missing.

    The lock belongs to the process: the system releases it when the process ends, however it ends. It also holds
    between hosts that share the folder over NFS. The first process of a run locks for all.

    Raises:
      UserError: the folder cannot be made, or another command holds its lock.
    """
    handle = on_first_process(lambda: _lock(run))
    if handle is not None:
        remove_leftovers(run.folder)
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of `jaxforget.files.write_text` that a killed command left in a run's folder."""
    for place in (folder, *(path for path in (folder / "evals").rglob("*") if path.is_dir()), folder / "evals"):
        for path in place.glob(".*"):
            if TEMPORARY.fullmatch(path.name) and path.is_file():
                path.unlink(missing_ok=True)


def _lock(run: Run) -> int:
    """Lock the folder; return the descriptor that holds the lock."""
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={run.folder}: cannot be made: {error.strerror}; give another out=") from None
    handle = os.open(run.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            run.say(f"{run.folder}: its file system has no locks; let one command at a time work in it")
            return handle
        owner = os.read(handle, 200).decode(errors="replace").strip()
        os.close(handle)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        raise UserError(
            f"out={run.folder}: another command is working in it ({owner or 'unknown'}); wait for its end, or name "
            "another out="
        ) from None
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
    return handle
