"""Weights of a Hugging Face folder: memory-mapped and copied straight to the devices that need them.

The slices of a parameter are assembled on the host and handed over one after the other. A host so holds one slice (on
CPU, the parameters themselves) and never a second model.
"""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util
from jax.sharding import Sharding

from jaxforget.errors import UserError
from jaxforget.files import read_json
from jaxforget.models.config import ModelConfig
from jaxforget.models.layout import Leaf, leaves
from jaxforget.models.safetensors_io import FLOATS, MappedFile, copy_cast

INDEX = "model.safetensors.index.json"
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Names as a model without its language model head is saved.
BARE = re.compile(r"(embed_tokens|layers\.\d+|norm)\..+")
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Buffers that old checkpoints carry and that the forward pass computes for itself.
HARMLESS = re.compile(r"(.*\.)?rotary_emb\.inv_freq")
LONGEST_NAME = 255  # bytes of a file's name, in usual file systems
CHUNK = 4 << 20  # bytes that a reading thread takes at once
ALIGNMENT = 64  # bytes; a host buffer so aligned becomes a CPU device's array without a copy


def float_dtype(name: Any) -> np.dtype:
    """Return the numpy dtype of "float32", "bfloat16" or "float16", given as a name or as a dtype.

    Raises:
      UserError: it is another dtype.
    """
    known = {"float32": FLOATS["F32"], "bfloat16": FLOATS["BF16"], "float16": FLOATS["F16"]}
    key = name if isinstance(name, str) else np.dtype(name).name
    if key not in known:
        raise UserError(f"dtype {key!r} is not one for weights; use float32, bfloat16 or float16")
    return known[key]


class Checkpoint:
    """The mapped safetensors files of a folder, as one set of named tensors.

    Attributes:
      folder: the folder that holds them.
      files: tensor name -> the file that holds it. Names lead with "model.", however they are stored.
      absent: names that the index lists and no file holds -> the file that should.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.files, self.absent = _open_files(self.folder)

    def check(self, config: ModelConfig) -> None:
        """Raise `UserError` on the first tensor that is missing, misshapen, not float, unknown, or would be ignored."""
        expected = {tensor: leaf for leaf in leaves(config) for tensor in leaf.tensors}
        tied = config.tie_word_embeddings
        for tensor, leaf in expected.items():
            name = self._stored_name(tensor) if tied else tensor
            if name not in self.files:
                raise UserError(self._missing(tensor))
            file = self.files[name]
            stored = file.tensors[name]
            if stored.code not in FLOATS:
                raise UserError(f"{file.path}: tensor {name} is {stored.code}; convert it to float32 or bfloat16")
            if stored.shape != leaf.stored_shape:
                raise UserError(
                    f"{file.path}: tensor {name} has shape {list(stored.shape)}, config.json makes it "
                    f"{list(leaf.stored_shape)}; the two are of different models"
                )
        for tensor, file in self.files.items():
            if tensor not in expected and not (tied and tensor == HEAD) and not HARMLESS.fullmatch(tensor):
                raise UserError(
                    f"{file.path}: tensor {tensor} is not part of the model that config.json describes; "
                    "check num_hidden_layers, attention_bias and mlp_bias there, or merge adapters first"
                )
        for tensor in self.absent:
            if not (tied and tensor in (EMBEDDING, HEAD)) and not HARMLESS.fullmatch(tensor):
                raise UserError(self._missing(tensor))
        if tied and self.has_own_head():
            raise UserError(
                f"{self.files[HEAD].path}: tensor {HEAD} differs from the embedding, but the model is loaded with a "
                "tied head; set tie_word_embeddings to false in the config.json of both models"
            )

    def has_own_head(self) -> bool:
        """Return True if the files hold a head that differs from the embedding. Reads both, up to the difference."""
        if EMBEDDING not in self.files or HEAD not in self.files:
            return False
        files = self.files[EMBEDDING], self.files[HEAD]
        first, second = (file.tensors[name] for file, name in zip(files, (EMBEDDING, HEAD), strict=True))
        if (first.shape, first.code) != (second.shape, second.code) or first.code not in FLOATS:
            return True
        rows, embedding, head = first.shape[0], files[0].view(EMBEDDING), files[1].view(HEAD)
        step = max(1, CHUNK * rows // max(1, embedding.nbytes))
        bits = np.dtype(f"u{embedding.dtype.itemsize}")
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            same = np.array_equal(embedding[part].view(bits), head[part].view(bits))
            files[0].release(EMBEDDING, part)
            files[1].release(HEAD, part)
            if not same:
                return True
        return False

    def read_into(self, out: np.ndarray, tensor: str, region: tuple[slice, ...], transposed: bool) -> None:
        """Copy `region` (in stored axes) of `tensor` into `out` and cast it; only that region's pages are read.

        Args:
          out: array of any float dtype and of the region's shape, [out, in] of a matrix, or its transpose.
          tensor: Hugging Face name.
          region: a slice for each axis.
          transposed: `out` has the transposed shape.
        """
        name = self._stored_name(tensor)
        file = self.files[name]
        copy_cast(out, file.view(name)[region], transpose=transposed)
        file.release(name, region[0])

    def _stored_name(self, tensor: str) -> str:
        """Return the name that `tensor` is stored under: of two names of one tensor, safetensors keeps either."""
        return HEAD if tensor == EMBEDDING and EMBEDDING not in self.files else tensor

    def _missing(self, tensor: str) -> str:
        """Return the message about a tensor that no file holds."""
        if tensor in self.absent:
            return f"{self.absent[tensor]}: lacks tensor {tensor} that {INDEX} promises; download both again"
        wrapped = next((name for name in self.files if name.endswith(f".{tensor}")), None)
        if wrapped is not None:
            prefix = wrapped.removesuffix(tensor)
            remedy = f"the file names it {wrapped}; save the model again without the prefix {prefix!r}"
        elif tensor == HEAD:
            remedy = "if the head is tied to the embedding, set tie_word_embeddings in config.json"
        else:
            remedy = "download the model again, or check num_hidden_layers and the biases in config.json"
        return f"{self.folder}: tensor {tensor} is missing; {remedy}"


def has_own_head(folder: Path) -> bool:
    """Return True if `folder` holds whole weights with a head that differs from the embedding."""
    return _weight_files(folder) != [] and Checkpoint(folder).has_own_head()


def has_whole_weights(folder: Path) -> bool:
    """Return True if `folder` holds a model's own weights, in whatever format, beside or without an adapter's."""
    return bool(_weight_files(folder)) or any(folder.glob("pytorch_model*.bin"))


def load_params(
    folder: str | Path,
    config: ModelConfig,
    *,
    dtype: Any,
    shardings: Any = None,
    convert: Callable[[str, jax.Array], Any] = lambda name, array: array,
) -> dict[str, Any]:
    """Load `folder` as the tree of `models.transformer.Transformer`, kernels [layers, in, out] as `layout` says.

    Args:
      folder: holds `model.safetensors`, or an index and its shards.
      config: the model's shape; every stored tensor is checked against it before any is read.
      dtype: of the result, whatever is stored: float32, bfloat16 or float16.
      shardings: a tree of `jax.sharding.Sharding` like the parameters; None puts all on the default device.
        Each process reads only what its own devices hold.
      convert: (name, parameter) -> the form in which it is held; called as soon as the parameter is on its devices.

    Raises:
      UserError: a tensor or file is at fault; names it and says what to do.
    """
    dtype = float_dtype(dtype)
    checkpoint = Checkpoint(folder)
    checkpoint.check(config)
    placed = traverse_util.flatten_dict(shardings, sep="/") if shardings is not None else {}
    default = jax.device_put(np.zeros(())).sharding
    params = {}
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for leaf in leaves(config):
            sharding = placed[leaf.name] if shardings is not None else default
            # No reference to the unconverted array is kept: the next parameter needs its memory.
            array = convert(leaf.name, _load_leaf(checkpoint, leaf, dtype, sharding, pool))
            params[leaf.name] = jax.block_until_ready(array)
    return traverse_util.unflatten_dict(params, sep="/")


def _load_leaf(
    checkpoint: Checkpoint, leaf: Leaf, dtype: np.dtype, sharding: Sharding, pool: ThreadPoolExecutor
) -> jax.Array:
    """Load one parameter onto its devices. A slice that several devices share is read once."""
    holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    arrays = []
    for bounds, devices in holders.items():
        host = _read_slice(checkpoint, leaf, dtype, bounds, pool)
        arrays += [jax.device_put(host, device) for device in devices]
        jax.block_until_ready(arrays)  # otherwise slices would pile up on the host
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays)


def _read_slice(
    checkpoint: Checkpoint,
    leaf: Leaf,
    dtype: np.dtype,
    bounds: tuple[tuple[int, int], ...],
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """Read the part `bounds` (start and stop on each axis) of a parameter to the host."""
    out = _aligned([stop - start for start, stop in bounds], dtype)
    if leaf.stacked:
        names, targets, bounds = leaf.tensors[slice(*bounds[0])], out, bounds[1:]
    else:
        names, targets = leaf.tensors, out[None]
    # From here on axes are those of one stored tensor; threads take runs of its rows.
    (first, last), *rest = bounds[::-1] if leaf.transposed else bounds
    step = max(1, CHUNK * (last - first) // max(1, targets[0].nbytes))
    jobs = []
    for name, target in zip(names, targets, strict=True):
        target = target.T if leaf.transposed else target
        for start in range(first, last, step):
            stop = min(start + step, last)
            view = target[start - first : stop - first]
            region = (slice(leaf.start + start, leaf.start + stop), *(slice(*bound) for bound in rest))
            jobs.append((view.T if leaf.transposed else view, name, region))
    # The results are consumed so that a thread's failure is raised here.
    list(pool.map(lambda job: checkpoint.read_into(*job, leaf.transposed), jobs))
    return out


def _aligned(shape: list[int], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _weight_files(folder: Path) -> list[Path]:
    """Return the index, the single file, or whatever safetensors files `folder` holds; an adapter's are none."""
    for known in (folder / "model.safetensors", folder / INDEX):
        if known.is_file():
            return [known]
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_model"))


def _open_files(folder: Path) -> tuple[dict[str, MappedFile], dict[str, Path]]:
    """Return tensor name -> mapped file, and tensors that only the index lists -> the file that should hold them."""
    found = _weight_files(folder)
    if len(found) == 1:
        if found[0].name == INDEX:
            return _open_indexed(found[0])
        file = _open_file(found[0])
        return dict.fromkeys(file.tensors, file), {}
    if found:
        raise UserError(f"{folder}: {len(found)} safetensors files and no {INDEX}; download the folder again")
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{folder / pickled[0]}: pickled weights run code when they are read and are refused; use "
            "*.safetensors, or load it in transformers where you trust it and save_pretrained it"
        )
    raise UserError(f"{folder}: no *.safetensors weights in it; download the model again")


def _open_file(path: Path) -> MappedFile:
    """Map a file; its tensors get the names that lead with "model."."""
    file = MappedFile(path)
    renamed = {_full_name(name): stored for name, stored in file.tensors.items()}
    if len(renamed) < len(file.tensors):
        raise UserError(f"{path}: holds a tensor twice, with and without the prefix 'model.'; save the model again")
    file.tensors = renamed
    return file


def _full_name(tensor: str) -> str:
    return f"model.{tensor}" if BARE.fullmatch(tensor) else tensor


def _open_indexed(index: Path) -> tuple[dict[str, MappedFile], dict[str, Path]]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: has no weight_map; download it again")
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or not shard or Path(shard).name != shard or len(shard) > LONGEST_NAME:
            told = f"{str(shard):.80}"
            raise UserError(f"{index}: {tensor:.80} is in {told!r}, no name of a file beside it; download it again")
    shards: dict[str, MappedFile] = {}
    for shard in sorted(set(weight_map.values())):
        path = index.parent / shard
        if not path.is_file():
            raise UserError(f"{path}: listed in {index.name} but missing; download it, too")
        shards[shard] = _open_file(path)
    # A tensor that the index does not list is part of the model all the same: transformers reads whole files.
    files = {tensor: file for file in shards.values() for tensor in file.tensors}
    absent = {}
    for name, shard in weight_map.items():
        tensor, file = _full_name(name), shards[shard]
        if tensor in file.tensors:
            files[tensor] = file
        else:
            absent[tensor] = file.path
    return files, absent
