"""The record of a run: versions, devices, times, and the fingerprint of every stage's inputs."""

import datetime
import hashlib
import importlib.metadata
import json
import platform
import resource
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxforget.errors import UserError
from jaxforget.files import files_below, find_difference, hash_file, hash_files, read_json, write_json

PACKAGES = (
    "jaxforget",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "transformers",
    "tensorflow-datasets",
    "grain",
    "numpy",
)


class Manifest:
    """The file manifest.json in a run's folder; only the first process writes it.

    Raises:
      UserError: the file exists but is no manifest.
    """

    def __init__(self, run: Path):
        self._path = run / "manifest.json"
        remedy = f"delete it, and `jaxforget run {run} --force` runs every stage again"
        self._values: dict[str, Any] = read_json(self._path, remedy=remedy) if self._path.is_file() else {}
        if not isinstance(self._values, dict) or not all(
            isinstance(self._values.get(part, {}), dict) for part in ("begun", "files", "hashes", "stages")
        ):
            raise UserError(f"{self._path}: is not a run's manifest; {remedy}")
        self._verified: set[str] = set()
        self._devices: dict[str, Any] | None = None
        self._hashes = self._values.setdefault("hashes", {})

    def stage(self, name: str) -> dict[str, Any] | None:
        """Return what was recorded when the stage last finished, or None."""
        return self._values.get("stages", {}).get(name)

    def begun(self, name: str) -> dict[str, Any] | None:
        """Return the inputs and options with which an unfinished stage last started, as `begin` took them, or None."""
        return self._values.get("begun", {}).get(name)

    def begin(self, name: str, inputs: Mapping[str, str], options: Mapping[str, str]) -> None:
        """Record that the stage starts with these inputs and options; see `record`."""
        self._values.setdefault("begun", {})[name] = {"inputs": dict(inputs), "options": dict(options)}
        self._save()

    def abandon(self, name: str) -> None:
        """Remove what `begin` recorded, because the stage cannot go on as it started."""
        if self._values.get("begun", {}).pop(name, None) is not None:
            self._save()

    def record(
        self,
        name: str,
        inputs: Mapping[str, str],
        seconds: float,
        *,
        options: Mapping[str, str] | None = None,
        outputs: Collection[str] = (),
    ) -> None:
        """Record that the stage finished with these inputs.

        Args:
          name: the stage.
          inputs: name -> hash or value.
          seconds: how long the stage took.
          outputs: what the stage wrote, see `seal`.
          options: all options of the run that are no layout options, to tell later which of them changed.
        """
        entry = {
            "fingerprint": fingerprint(inputs),
            "seconds": round(seconds, 3),
            "inputs": dict(inputs),
            "options": dict(options or {}),
            "peak_bytes": peak_bytes(),
            "devices": self._devices,  # those of the start that finished it; None if it did not ask for them
            "finished": _now(),
        }
        self._values.setdefault("stages", {})[name] = entry
        self._values.get("begun", {}).pop(name, None)
        self.seal(outputs)

    def seal(self, outputs: Collection[str]) -> None:
        """Record size and hash of files in the run's folder, so that later stages can verify them.

        Args:
          outputs: a file, or a folder with all files below, by name in the run's folder.
        """
        if jax.process_index() == 0:
            folder = self._path.parent
            for name in outputs:
                files = files_below(folder / name)[0] if (folder / name).is_dir() else [folder / name]
                self._sealed().update(hash_files(files, folder))
            self._verified.update(outputs)
        self._save()

    def unseal(self, outputs: Collection[str]) -> None:
        """Forget size and hash of files that are about to be written; see `seal`."""
        for file in self._within(outputs):
            del self._sealed()[file]
        self._save()

    def damaged(self, outputs: Collection[str]) -> list[str]:
        """Return the recorded files among `outputs` that are gone or have another size; see `seal`.

        Texts for a reader (.md) are left out, because a user may edit them.
        """
        folder, found = self._path.parent, []
        for file in self._within(outputs):
            path = folder / file
            if path.suffix != ".md" and not (path.is_file() and path.stat().st_size == self._sealed()[file]["bytes"]):
                found.append(file)
        return found

    def verify(self, outputs: Collection[str]) -> None:
        """Check that files still have their recorded size and hash, once in a process; see `seal`.

        Raises:
          UserError: a file is damaged or gone; names it.
        """
        folder = self._path.parent
        for name in outputs:
            if name in self._verified:
                continue
            # A result of evaluations that is gone is measured again.
            files = [file for file in self._within([name]) if name != "evals" or (folder / file).exists()]
            if fault := find_difference({file: self._sealed()[file] for file in files}, folder):
                damaged = Path(fault.partition(": is ")[0])
                # Stages make models and blocks again whole, and results of evaluations one by one.
                whole = damaged if name == "evals" else folder / name
                raise UserError(f"{fault}; remove {whole}, and the same command makes it again")
            self._verified.add(name)

    def _sealed(self) -> dict[str, Any]:
        return self._values.setdefault("files", {})

    def _within(self, outputs: Collection[str]) -> list[str]:
        """Return the recorded files among `outputs`."""
        return [file for file in self._sealed() if any(f"{file}/".startswith(f"{name}/") for name in outputs)]

    def intact(self, outputs: Collection[str]) -> bool:
        """Return True if files are recorded among `outputs`, and all are as they were written; see `seal`."""
        written = {file: self._sealed()[file] for file in self._within(outputs)}
        return bool(written) and find_difference(written, self._path.parent) is None

    def strike(self, name: str) -> None:
        """Remove the record of a stage, because its output is about to be replaced."""
        if self._values.get("stages", {}).pop(name, None) is not None:
            self._save()

    def snapshot(self) -> dict[str, Any]:
        """Return what `restore` takes: the records of the stages and of the files they wrote."""
        return {part: dict(self._values.get(part, {})) for part in ("stages", "files")}

    def restore(self, snapshot: Mapping[str, Any], outputs: Collection[str]) -> None:
        """Undo `strike` and `unseal` since `snapshot`, if the files among `outputs` are as they were then."""
        now = self.snapshot()
        self._values |= snapshot
        if not self.intact(outputs):
            self._values |= now
        self._save()

    def described(self) -> bool:
        """Return True if an earlier start recorded its versions and devices."""
        return "devices" in self._values

    def devices(self) -> dict[str, Any] | None:
        """Return the devices of the last start that recorded them, as `current_devices` returns them, or None."""
        return self._values.get("devices")

    def describe(self, command: list[str]) -> None:
        """Record the versions, devices and command of this start."""
        self._values["versions"] = {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}
        self._values["git"] = _git_state()
        self._values["command"] = command
        self._devices = current_devices()
        self._values["devices"] = self._devices
        self._values.setdefault("started", _now())
        self._save()

    def hash_path(self, path: Path, keep: Callable[[Path], bool] = lambda name: True) -> str:
        """Return the SHA-256 of a file, or of a folder's files and their names.

        A file whose size and time are unchanged is not read again.

        Args:
          path: a file or a folder.
          keep: selects files of a folder by their relative paths; hidden files never count.
        """
        if path.is_file():
            return self._hash_file(path)
        digest = hashlib.sha256()
        for file in files_below(path)[0] if path.is_dir() else ():
            name = file.relative_to(path)
            if keep(name):
                digest.update(f"{name} {self._hash_file(file)}\n".encode())
        return digest.hexdigest()

    def _hash_file(self, path: Path) -> str:
        stat = path.stat()
        known = self._hashes.get(str(path))
        if known and known["bytes"] == stat.st_size and known["time"] == stat.st_mtime_ns:
            return known["sha256"]
        value = hash_file(path)
        self._hashes[str(path)] = {"sha256": value, "bytes": stat.st_size, "time": stat.st_mtime_ns}
        return value

    def _save(self) -> None:
        if jax.process_index() == 0:
            write_json(self._path, self._values)


def current_devices() -> dict[str, Any]:
    """Return number and kind of the devices of this start, and the number of its processes."""
    devices = jax.devices()
    return {"count": len(devices), "kind": devices[0].device_kind, "processes": jax.process_count()}


def peak_bytes() -> int:
    """Return the largest memory in use so far: of this process's fullest device, or on a CPU of the process itself."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = max(one.get("peak_bytes_in_use", 0) for one in stats)
    return used or process_peak_bytes()


def process_peak_bytes() -> int:
    """Return the largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def fingerprint(inputs: Mapping[str, str]) -> str:
    """Return one hash of a stage's named inputs."""
    return hashlib.sha256(json.dumps(dict(inputs), sort_keys=True).encode()).hexdigest()


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the names of the inputs that differ."""
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Return the commit of this program's source and whether it was changed; None if it is no checkout."""
    root = Path(sys.modules["jaxforget"].__file__).resolve().parents[1]
    # An installed package may be inside the checkout of another project.
    if not (root / ".git").exists():
        return None

    def ask(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "changed": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None
