"""A model's folder: found here, on the Hugging Face hub, or in a bucket; and its config read."""

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError
from jaxforget.files import atomic_folder, read_json
from jaxforget.models.adapters import is_adapter, read_adapter
from jaxforget.models.config import ModelConfig

# What a model needs and nothing else: no pickled weights (they run code), no second copy in another form.
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
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def read_config(folder: str | Path) -> tuple[ModelConfig, dict[str, Any]]:
    """The shape in `folder/config.json`, and that file's whole content for a later export.

    An adapter's folder may leave it to the base that it names.

    Raises:
      UserError: no such file, not JSON, or not a Llama that this package computes.
    """
    path = Path(folder) / "config.json"
    if not path.is_file() and is_adapter(Path(folder)):
        return read_config(resolve_folder(read_adapter(Path(folder)).base))
    if not path.is_file():
        raise UserError(f"{path}: no such file; a model folder holds config.json beside its *.safetensors")
    raw = read_json(path)
    if not isinstance(raw, dict):
        raise UserError(f"{path}: holds {type(raw).__name__}, not an object of settings; download it again")
    return ModelConfig.from_hf(raw, source=str(path)), raw


def resolve_folder(place: str | Path) -> Path:
    """The local folder of a model given as a folder, a hub id ("owner/name"), or an address ("gs://bucket/folder").

    The latter two are copied into a cache (the hub's own; `$XDG_CACHE_HOME/jaxforget`) and found there again.

    Raises:
      UserError: there is no such folder or repository, or no way to it.
    """
    name = str(place)
    if "://" in name:
        return _from_bucket(name)
    path = Path(place).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise UserError(f"{path}: is a file; give the model's folder, the one that holds config.json")
    if not HUB_ID.fullmatch(name):
        raise UserError(f"{name}: no such folder; give one, a hub id (owner/name) or a gs:// address")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(WANTED)))
    except errors.GatedRepoError:
        raise UserError(f"{name}: accept its licence on its page of the hub, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"{name}: no such folder, nor repository on the hub (if private: `hf auth login`)") from None
    # The hub's client lets its transport's errors through, and that transport has changed between versions.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{name}: no such folder here, and the hub could not be reached ({reason}); "
            "download it where there is a network and give its folder"
        ) from None


def _from_bucket(address: str) -> Path:
    """Copies a folder that fsspec reaches, each file streamed; when one has changed, into a new copy."""
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
        listed = [entry for entry in system.ls(root, detail=True) if entry["type"] == "file"]
        wanted = [entry for entry in listed if any(Path(entry["name"]).match(pattern) for pattern in WANTED)]
        if not any(Path(entry["name"]).name == "config.json" for entry in wanted):
            raise UserError(f"{address}: no config.json in it; give the model's own folder")
        folder = _cache() / f"{Path(root).name}-{_fingerprint(address, wanted)}"
        if not folder.is_dir():
            with atomic_folder(folder) as partial:
                for entry in wanted:
                    system.get_file(entry["name"], str(partial / Path(entry["name"]).name))
    except FileNotFoundError:
        raise UserError(f"{address}: no such folder; check the address") from None
    # A bucket's client raises its network's own errors: whatever it says, only the user can mend it.
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
