"""Weights of a Hugging Face folder, memory-mapped, straight onto the devices that need them.

Every device's slice of every parameter is assembled on the host by itself and handed over before the next: a
host holds one slice (on CPU, the parameters themselves), never a second model.
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
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Buffers that old checkpoints carry and that the forward pass computes for itself.
HARMLESS = re.compile(r"(.*\.)?rotary_emb\.inv_freq")
CHUNK = 4 << 20  # bytes that a reading thread takes at once
ALIGNMENT = 64  # bytes; a host buffer so aligned becomes a CPU device's array without a copy


def float_dtype(name: Any) -> np.dtype:
    """The numpy dtype of "float32", "bfloat16", "float16", or of such a dtype itself."""
    known = {"float32": FLOATS["F32"], "bfloat16": FLOATS["BF16"], "float16": FLOATS["F16"]}
    key = name if isinstance(name, str) else np.dtype(name).name
    if key not in known:
        raise UserError(f"dtype {key!r} is not one for weights; use float32, bfloat16 or float16")
    return known[key]


class Checkpoint:
    """The mapped safetensors files of a folder, as one set of named tensors.

    Attributes:
      folder: where they lie.
      files: tensor name -> the file that holds it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.files = _open_files(self.folder)

    def check(self, config: ModelConfig) -> None:
        """Raises `UserError` on the first tensor that is missing, misshapen, not float, or unknown."""
        expected = {tensor: leaf for leaf in leaves(config) for tensor in leaf.tensors}
        for tensor, leaf in expected.items():
            if tensor not in self.files:
                raise UserError(f"{self.folder}: tensor {tensor} is missing; {_missing_mend(tensor)}")
            file = self.files[tensor]
            stored = file.tensors[tensor]
            if stored.code not in FLOATS:
                raise UserError(f"{file.path}: tensor {tensor} is {stored.code}; convert it to float32 or bfloat16")
            if stored.shape != leaf.stored_shape:
                raise UserError(
                    f"{file.path}: tensor {tensor} has shape {list(stored.shape)}, config.json makes it "
                    f"{list(leaf.stored_shape)}; the two are of different models"
                )
        for tensor, file in self.files.items():
            tied_head = config.tie_word_embeddings and tensor == "lm_head.weight"  # redundant, and often stored
            if tensor not in expected and not tied_head and not HARMLESS.fullmatch(tensor):
                raise UserError(
                    f"{file.path}: tensor {tensor} is not part of the Llama that config.json describes; "
                    "check num_hidden_layers, attention_bias and mlp_bias there, or merge adapters first"
                )

    def read_into(self, out: np.ndarray, tensor: str, region: tuple[slice, ...], transposed: bool) -> None:
        """Copies `region` (in stored axes) of `tensor` into `out`, cast; touches that region's pages only.

        `out` has the region's shape, [out, in] of a matrix, or its transpose where `transposed`, and any float dtype.
        """
        file = self.files[tensor]
        copy_cast(out, file.view(tensor)[region], transpose=transposed)
        file.release(tensor, region[0])


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
      config: the model's shape; every stored tensor is checked against it before the first byte is read.
      dtype: of the result, whatever is stored: float32, bfloat16 or float16.
      shardings: a tree of `jax.sharding.Sharding` like the parameters; None puts all on the default device.
        Each process reads only what its own devices hold.
      convert: (name, parameter) -> what it is held as, called as soon as each is on its devices.

    Raises:
      UserError: naming the file or tensor at fault, and the mend.
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
            # Nothing here holds on to what was converted: the next one needs its place.
            array = convert(leaf.name, _load_leaf(checkpoint, leaf, dtype, sharding, pool))
            params[leaf.name] = jax.block_until_ready(array)
    return traverse_util.unflatten_dict(params, sep="/")


def _load_leaf(
    checkpoint: Checkpoint, leaf: Leaf, dtype: np.dtype, sharding: Sharding, pool: ThreadPoolExecutor
) -> jax.Array:
    """One parameter on its devices. A slice that several devices share is read once."""
    holders: dict[tuple[tuple[int, int], ...], list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(leaf.shape).items():
        bounds = tuple(part.indices(size)[:2] for part, size in zip(index, leaf.shape, strict=True))
        holders.setdefault(bounds, []).append(device)
    arrays = []
    for bounds, devices in holders.items():
        host = _read_slice(checkpoint, leaf, dtype, bounds, pool)
        arrays += [jax.device_put(host, device) for device in devices]
        jax.block_until_ready(arrays)  # else the next slice piles up on the host while this one is still on its way
    return jax.make_array_from_single_device_arrays(leaf.shape, sharding, arrays)


def _read_slice(
    checkpoint: Checkpoint,
    leaf: Leaf,
    dtype: np.dtype,
    bounds: tuple[tuple[int, int], ...],
    pool: ThreadPoolExecutor,
) -> np.ndarray:
    """The part `bounds` (start and stop on each axis) of a parameter, on the host."""
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
            region = (slice(start, stop), *(slice(*bound) for bound in rest))
            jobs.append((view.T if leaf.transposed else view, name, region))
    # Consumed to the end so that a thread's failure is raised here.
    list(pool.map(lambda job: checkpoint.read_into(*job, leaf.transposed), jobs))
    return out


def _aligned(shape: list[int], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def _open_files(folder: Path) -> dict[str, MappedFile]:
    """Tensor name -> mapped file, from the single file or through the index."""
    index = folder / INDEX
    single = folder / "model.safetensors"
    if not single.is_file() and index.is_file():
        return _open_indexed(index)
    found = [single] if single.is_file() else sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        file = MappedFile(found[0])
        return dict.fromkeys(file.tensors, file)
    if found:
        raise UserError(f"{folder}: {len(found)} safetensors files and no {INDEX}; download the folder again")
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{folder / pickled[0]}: pickled weights run code when they are read and are refused; use "
            "*.safetensors, or load it in transformers where you trust it and save_pretrained it"
        )
    raise UserError(f"{folder}: no *.safetensors weights in it; download the model again")


def _open_indexed(index: Path) -> dict[str, MappedFile]:
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{index}: has no weight_map; download it again")
    files = {}
    for shard in sorted(set(map(str, weight_map.values()))):
        path = index.parent / Path(shard).name
        if not path.is_file():
            raise UserError(f"{path}: listed in {index.name} but missing; download it, too")
        files[shard] = MappedFile(path)
    for tensor, shard in weight_map.items():
        if tensor not in files[shard].tensors:
            raise UserError(
                f"{files[shard].path}: lacks tensor {tensor} that {index.name} promises; download both again"
            )
    return {tensor: files[shard] for tensor, shard in weight_map.items()}


def _missing_mend(tensor: str) -> str:
    if tensor == "lm_head.weight":
        return "if the head is tied to the embedding, set tie_word_embeddings in config.json"
    return "download the model again, or check num_hidden_layers and the biases in config.json"
