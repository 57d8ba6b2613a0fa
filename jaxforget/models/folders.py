"""Model folders: found locally, on the Hugging Face hub, or in a bucket; and their configuration."""

import dataclasses
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError, first_line
from jaxforget.files import atomic_folder, read_json
from jaxforget.models.adapters import CONFIG as ADAPTER_CONFIG
from jaxforget.models.adapters import Adapter, is_adapter, read_adapter
from jaxforget.models.config import ModelConfig
from jaxforget.models.load import has_own_head

# The files that a model needs. Not pickled weights, which run code, and no second copy in another format.
WANTED = (
    "model*.safetensors",
    "adapter_model.safetensors",
    "*.safetensors.index.json",
    "*.json",
    "*.model",
    "*.jinja",
    "LICENSE*",
    "USE_POLICY*",
    "NOTICE*",
)
HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
TEMPLATES = "additional_chat_templates"  # the only folder inside a model's folder that is read


def read_config(folder: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """Read the shape and token ids of the model in `folder`.

    An adapter's folder may leave config.json to the base that it names. End tokens are those of generation_config.json
    where it has some, as in transformers. A stored head that differs from the embedding is the model's head, whatever
    tie_word_embeddings says, as in transformers.

    Returns:
      The configuration, and the content of config.json for a later export.

    Raises:
      UserError: no such file, not JSON, or a model that is not computed here.
    """
    folder = Path(folder)
    path = folder / "config.json"
    if not path.is_file() and is_adapter(folder):
        return read_config(resolve_base(read_adapter(folder)))
    if not path.is_file():
        raise UserError(f"{path}: no such file; a model folder holds config.json beside its *.safetensors")
    raw = _read_object(path)
    config = ModelConfig.from_hf(raw, source=str(path))
    if config.tie_word_embeddings and not is_adapter(folder) and has_own_head(folder):
        raw = raw | {"tie_word_embeddings": False}
        config = ModelConfig.from_hf(raw, source=str(path))
    ends = _generation_end_tokens(folder)
    return (config if ends is None else dataclasses.replace(config, eos_token_id=ends)), raw


def _read_object(path: Path) -> dict[str, Any]:
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: holds {type(raw).__name__}, not an object of settings; download it again")
    return raw


def _generation_end_tokens(folder: Path) -> int | tuple[int, ...] | None:
    """Return eos_token_id of generation_config.json; None without that file or that key."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return None
    ends = _read_object(path).get("eos_token_id")
    if ends in (None, []):
        return None
    if not all(type(end) is int and end >= 0 for end in (ends if isinstance(ends, list) else [ends])):
        raise UserError(f"{path}: eos_token_id is {ends!r}; it must be a token id or a list of them")
    return tuple(ends) if isinstance(ends, list) else ends


def resolve_base(adapter: Adapter) -> Path:
    """Return the local folder of the base that `adapter` names.

    Raises:
      UserError: it cannot be had; names the setting to correct.
    """
    try:
        return resolve_folder(adapter.base)
    except UserError as error:
        raise UserError(
            f"{adapter.folder / ADAPTER_CONFIG}: base_model_name_or_path: {error}; or correct it there, or pass the "
            "base as jaxforget.load(..., base=...)"
        ) from None


def resolve_folder(place: str | Path) -> Path:
    """Return the local folder of a model; a remote one is copied into a cache (the hub's own, or jaxforget's).

    Args:
      place: a folder; a hub id, "owner/name" or "owner/name@revision"; or an address, "gs://bucket/folder", whose copy
        lies in `$XDG_CACHE_HOME/jaxforget`.

    Raises:
      UserError: there is no such folder or repository, or it cannot be reached.
    """
    name = str(place)
    if "://" in name:
        return _from_bucket(name)
    path = Path(place).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path}: is a file; give the model's folder, the one that holds config.json")
    found = HUB_ID.fullmatch(name)
    if not found:
        raise UserError(f"{name}: no such folder; give one, a hub id (owner/name or owner/name@revision) or gs://...")
    return _from_hub(name, found["repository"], found["revision"])


def _from_hub(name: str, repository: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.snapshot_download(repository, revision=revision, allow_patterns=list(WANTED)))
    except errors.GatedRepoError:
        raise UserError(f"{name}: accept its licence on its page of the hub, then `hf auth login`") from None
    except errors.RevisionNotFoundError:
        raise UserError(f"{name}: the hub's repository has no revision {revision!r}; name another") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: no such folder, nor repository on the hub (if private: `hf auth login`)") from None
    # The hub's client passes on its transport's errors, and that transport has changed between versions.
    except Exception as error:
        raise UserError(
            f"{name}: no such folder here, and the hub could not be reached ({first_line(error)}); "
            "download it where there is a network and give its folder"
        ) from None


def _from_bucket(address: str) -> Path:
    """Copy a folder that fsspec reaches, each file streamed. When a file has changed, a new copy is made."""
    import fsspec

    scheme = address.partition("://")[0]
    try:
        system, root = fsspec.core.url_to_fs(address)
    except ImportError:
        needed = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}.get(scheme, f"fsspec's package for {scheme}")
        raise UserError(f"{address}: reading {scheme}:// needs {needed}; `pip install {needed}`") from None
    except ValueError:
        raise UserError(f"{address}: {scheme}:// is not an address that can be read; use gs:// or a folder") from None
    try:
        listed = system.ls(root, detail=True)
        for entry in list(listed):
            if entry["type"] == "directory" and Path(entry["name"]).name == TEMPLATES:
                listed += system.ls(entry["name"], detail=True)
        listed = [entry for entry in listed if entry["type"] == "file"]
        wanted = [entry for entry in listed if any(Path(entry["name"]).match(pattern) for pattern in WANTED)]
        if not any(Path(entry["name"]).name == "config.json" for entry in wanted):
            raise UserError(f"{address}: no config.json in it; give the model's own folder")
        folder = _cache() / f"{Path(root).name}-{_fingerprint(address, wanted)}"
        if not folder.is_dir():
            with atomic_folder(folder) as partial:
                for entry in wanted:
                    path = Path(entry["name"])
                    target = partial / (TEMPLATES if path.parent.name == TEMPLATES else "") / path.name
                    target.parent.mkdir(exist_ok=True)
                    system.get_file(entry["name"], str(target))
    except FileNotFoundError:
        raise UserError(f"{address}: no such folder; check the address") from None
    # A bucket's client raises its network's own errors; all of them are for the user to fix.
    except Exception as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{address}: cannot be read ({error}); check the network and your credentials") from None
    return folder


def _fingerprint(address: str, entries: list[dict[str, Any]]) -> str:
    marks = ("name", "size", "md5Hash", "etag", "ETag", "mtime", "created", "updated")
    seen = [address, *sorted(str([entry.get(mark) for mark in marks]) for entry in entries)]
    return hashlib.sha256("\n".join(seen).encode()).hexdigest()[:16]


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxforget"
