"""LoRA adapters in folders, in the form that the `peft` library gave the field; and such a folder merged into weights.

An adapter's folder holds `adapter_config.json` (rank, alpha, which model it stands over), `adapter_model.safetensors`,
base's `config.json` and tokenizer, and a card.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxforget.errors import UserError
from jaxforget.files import atomic_folder, read_json, write_json, write_text
from jaxforget.models.config import ModelConfig
from jaxforget.models.export import export_order, write_model, write_papers
from jaxforget.models.layout import Leaf, leaves
from jaxforget.models.load import Checkpoint, float_dtype
from jaxforget.models.safetensors_io import FLOATS, MappedFile, copy_cast, write_file
from jaxforget.models.weights import LoRA, Params, dense_layers

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# What an adapter of that library may also be, and this forward pass does not compute.
STRANGE = ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "fan_in_fan_out")


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter's folder, its settings read and checked. scale: of its products; base: as it names it."""

    folder: Path
    rank: int
    scale: float
    base: str


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter and no whole weights."""
    return (folder / CONFIG).is_file()


def read_adapter(folder: Path) -> Adapter:
    """The settings in `folder`.

    Raises:
      UserError: not a LoRA, or of a kind that is not computed here.
    """
    path = folder / CONFIG
    raw = read_json(path)
    kind = raw.get("peft_type") if isinstance(raw, dict) else None
    if kind != "LORA":
        raise UserError(f"{path}: peft_type is {kind!r}; only 'LORA' adapters are computed here")
    for name in STRANGE:
        if raw.get(name):
            raise UserError(f"{path}: {name} is set, which is not computed here; merge the adapter into its base first")
    if raw.get("bias", "none") != "none":
        raise UserError(f"{path}: bias is {raw['bias']!r}, which is not computed here; merge the adapter first")
    rank, alpha, base = raw.get("r"), raw.get("lora_alpha"), raw.get("base_model_name_or_path")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not isinstance(base, str):
        raise UserError(f"{path}: wants r and lora_alpha, numbers, and base_model_name_or_path; write it again")
    return Adapter(folder, rank, alpha / (rank**0.5 if raw.get("use_rslora") else rank), base)


def _names(leaf: Leaf, layer: int) -> tuple[str, str]:
    """Stored names of a dense layer's two factors."""
    module = PREFIX + leaf.template.format(layer).removesuffix(".weight")
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


def _kernels(config: ModelConfig) -> dict[str, Leaf]:
    """Dense layer ("q") -> its kernel's leaf."""
    return {leaf.name.split("/")[1]: leaf for leaf in leaves(config) if leaf.name.endswith("/kernel")}


class AdapterFile:
    """The mapped factors of an adapter, checked against the shape of the model that they stand over."""

    def __init__(self, adapter: Adapter, config: ModelConfig):
        self.adapter = adapter
        self._config = config
        path = adapter.folder / WEIGHTS
        if not path.is_file():
            raise UserError(f"{path}: no such file; an adapter's folder holds it beside {CONFIG}")
        self._file = MappedFile(path)
        expected = {}
        for leaf in _kernels(config).values():
            depth, inputs, outputs = leaf.shape
            for layer in range(depth):
                a, b = _names(leaf, layer)
                expected |= {a: (adapter.rank, inputs), b: (outputs, adapter.rank)}
        for name, stored in self._file.tensors.items():
            if expected.get(name) != stored.shape or stored.code not in FLOATS:
                wanted = f"shape {list(expected[name])} in floats" if name in expected else "no such tensor"
                raise UserError(
                    f"{path}: tensor {name} is {stored.code} of shape {list(stored.shape)}; base and {CONFIG} make it "
                    f"{wanted}; give the adapter of this base"
                )
        # A dense layer has both factors in every layer, or is not adapted at all.
        for name, leaf in _kernels(config).items():
            found = [tensor in self._file.tensors for layer in range(leaf.shape[0]) for tensor in _names(leaf, layer)]
            if any(found) and not all(found):
                raise UserError(f"{path}: has {name} of some layers and not of others; write it again")

    def factors(self, name: str, layer: int) -> tuple[np.ndarray, np.ndarray] | None:
        """(a [in, r], b [r, out]), fp32, of a dense layer ("q"); None where it is not adapted."""
        stored = _names(_kernels(self._config)[name], layer)
        if stored[0] not in self._file.tensors:
            return None
        a, b = (self._file.view(tensor).astype(np.float32).T for tensor in stored)
        return a, b

    def stacked(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """(a [L, in, r], b [L, r, out]), fp32, of a dense layer."""
        found = [self.factors(name, layer) for layer in range(self._config.num_hidden_layers)]
        if found[0] is None:
            return None
        return tuple(np.stack(factor) for factor in zip(*found, strict=True))


def load_adapter(file: AdapterFile, config: ModelConfig, *, dtype: Any, shardings: Params) -> Params:
    """The adapter as a model's own tree (see `models.weights`), on `shardings` (of `weights.adapter_shapes`)."""
    dtype = float_dtype(dtype)
    layers = {}
    for name in dense_layers(config):
        if (factors := file.stacked(name)) is not None:
            where = shardings["layers"][name]["lora"]
            a, b = (
                jax.make_array_from_callback(x.shape, to, lambda index, x=x: x[index])
                for x, to in zip((x.astype(dtype) for x in factors), (where.a, where.b), strict=True)
            )
            layers[name] = {"lora": LoRA(a, b, file.adapter.scale)}
    return {"layers": layers}


def save_adapter(
    folder: Path, own: Params, config: ModelConfig, raw_config: dict[str, Any], base: Path, named: str, card: str
) -> None:
    """Writes `folder` whole or not at all, factors in fp32, on the first process; all return when it stands.

    Args:
      own: the adapter's tree, sharded in any way.
      config, raw_config: base's.
      base: base's local folder, whose tokenizer goes along.
      named: base as the adapter names it: a path or hub id.
      card: Markdown of the `README.md`.
    """
    factors = {name: layer["lora"] for name, layer in own["layers"].items()}
    whole = jax.tree.map(_on_host, factors)
    tensors = {}
    for name, lora in whole.items():
        for layer in range(config.num_hidden_layers):
            a, b = _names(_kernels(config)[name], layer)
            tensors |= {a: np.asarray(lora.a[layer], np.float32).T, b: np.asarray(lora.b[layer], np.float32).T}
    first = next(iter(whole.values()))
    rank = first.a.shape[-1]
    modules = sorted(leaf.template.split(".")[-2] for name, leaf in _kernels(config).items() if name in whole)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": named,
        "r": rank,
        "lora_alpha": first.scale * rank,
        "target_modules": modules,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
    }

    if jax.process_index() == 0:
        with atomic_folder(folder) as partial:
            write_json(partial / CONFIG, settings)
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            write_file(partial / WEIGHTS, np.dtype(np.float32), shapes, tensors.values())
            write_papers(partial, raw_config, config, base, np.dtype(np.float32))
            write_text(partial / "README.md", card)
    _wait(folder)


def save_merged(
    folder: Path,
    adapter: Adapter,
    base: Path,
    config: ModelConfig,
    raw_config: dict[str, Any],
    *,
    dtype: Any,
    max_shard_bytes: int,
    model_card: str,
) -> float:
    """Writes base's stored weights with the adapter's products added, in fp32 before `dtype`; a tensor at a time.

    Nothing goes through a device: a model that only fits in int8 is merged in full. Returns the share of the update
    that `dtype` keeps, as `stages.export.surviving_update`, on the first process.
    """
    dtype = float_dtype(dtype)
    stored, file = Checkpoint(base), AdapterFile(adapter, config)
    sums = np.zeros(2)

    def tensors() -> Iterator[np.ndarray]:
        for tensor, leaf, layer in export_order(config):
            whole = np.empty(leaf.stored_shape, np.float32)
            stored.read_into(whole, tensor, (slice(0, whole.shape[0]), *(slice(None),) * (whole.ndim - 1)), False)
            update = None
            if layer is not None and leaf.name.endswith("/kernel"):
                update = file.factors(leaf.name.split("/")[1], layer)
            out = np.empty(leaf.stored_shape, dtype)
            if update is None:
                copy_cast(out, whole)
                yield out
                continue
            a, b = update
            merged = whole + adapter.scale * (b.T @ a.T)  # stored as [out, in]
            copy_cast(out, merged)
            wanted = merged - whole
            sums[:] += np.vdot(wanted, out.astype(np.float32) - whole), np.vdot(wanted, wanted)
            yield out

    if jax.process_index() == 0:
        write_model(folder, tensors(), config, raw_config, base, dtype, max_shard_bytes, model_card)
    _wait(folder)
    return float(sums[0] / max(sums[1], 1e-30))


def _wait(folder: Path) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(f"jaxforget.adapters {folder}")


def _on_host(array: jax.Array) -> np.ndarray:
    if not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)
