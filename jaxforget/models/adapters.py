"""LoRA adapters in the file format of Hugging Face's PEFT: read, checked, loaded, saved, and merged into weights.

An adapter's folder holds `adapter_config.json` (rank, alpha, the base it belongs to) and `adapter_model.safetensors`.
A folder written here also holds base's `config.json` and tokenizer, and a model card.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxforget.errors import UserError
from jaxforget.files import atomic_folder, read_json, write_json, write_text
from jaxforget.models.config import ModelConfig
from jaxforget.models.export import export_order, write_companion_files, write_model
from jaxforget.models.layout import Leaf
from jaxforget.models.load import Checkpoint, float_dtype, has_whole_weights
from jaxforget.models.safetensors_io import FLOATS, MappedFile, copy_cast, write_file
from jaxforget.models.weights import LoRA, Params, dense_kernels
from jaxforget.processes import fetch, wait_for_all

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
# Settings that are read here, and settings that change nothing once the factors are stored: dropout is off outside of
# training, and those of an initialisation have done their work.
READ = {"peft_type", "r", "lora_alpha", "use_rslora", "base_model_name_or_path", "revision", "init_lora_weights"}
READ |= {"bias", "target_modules", "exclude_modules", "layers_to_transform"}
HARMLESS = {"task_type", "inference_mode", "lora_dropout", "auto_mapping", "peft_version", "eva_config"}
HARMLESS |= {"megatron_core", "qalora_group_size", "layers_pattern"}  # without effect unless another setting is on
# Initialisations that leave base as it is. All others (pissa, olora, corda, loftq, lora_ga, ...) change base's weights,
# so that their factors over the stored base are another model.
KEEP_BASE = (None, True, False, "gaussian", "eva", "orthogonal")
MERGE = "which is not computed here; merge the adapter into its base first"


@dataclasses.dataclass(frozen=True)
class Adapter:
    """Settings of an adapter's folder, checked.

    Attributes:
      folder: that folder.
      rank: of every factor pair.
      scale: factor of the products.
      base: base_model_name_or_path, with the revision behind "@" where the adapter names one.
      targets: target_modules, as PEFT matches them: names, a regular expression, or None for whatever is stored.
      excluded: exclude_modules, likewise.
      layers: layers_to_transform; None stands for all.
    """

    folder: Path
    rank: int
    scale: float
    base: str
    targets: tuple[str, ...] | str | None = None
    excluded: tuple[str, ...] | str | None = None
    layers: tuple[int, ...] | None = None

    def adapts(self, module: str, layer: int) -> bool | None:
        """Return whether the settings name `module` ("model.layers.0.mlp.up_proj"); None where they do not say."""
        if self.targets is None:
            return None
        if self.layers is not None and layer not in self.layers:
            return False
        if self.excluded and _matches(self.excluded, module):
            return False
        return self.targets == "all-linear" or _matches(self.targets, module)


def _matches(wanted: tuple[str, ...] | str, module: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in wanted)


def is_adapter(folder: Path) -> bool:
    """Return True if `folder` holds an adapter and no whole weights; beside whole weights adapter files are ignored."""
    return (folder / CONFIG).is_file() and not has_whole_weights(folder)


def read_adapter(folder: Path) -> Adapter:
    """Read the settings of the adapter in `folder`.

    Raises:
      UserError: it is no LoRA, or a setting is not known to leave the computation as it is here.
    """
    path = folder / CONFIG
    raw = read_json(path)
    kind = raw.get("peft_type") if isinstance(raw, dict) else None
    if kind != "LORA":
        raise UserError(f"{path}: peft_type is {kind!r}; only 'LORA' adapters are computed here")
    for name, value in raw.items():
        if name not in READ | HARMLESS and value not in (None, False, [], {}, ""):
            raise UserError(f"{path}: {name} is {_short(value)}, {MERGE}")
    if raw.get("bias", "none") != "none":
        raise UserError(f"{path}: bias is {_short(raw['bias'])}, {MERGE}")
    start = raw.get("init_lora_weights")
    if not any(start is known or (isinstance(start, str) and start.lower() == known) for known in KEEP_BASE):
        raise UserError(f"{path}: init_lora_weights is {_short(start)}, an initialisation that changes base, {MERGE}")
    rank, alpha, base = raw.get("r"), raw.get("lora_alpha"), raw.get("base_model_name_or_path")
    if not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float) or not isinstance(base, str):
        raise UserError(f"{path}: r and lora_alpha must be numbers and base_model_name_or_path a name; write it again")
    revision = raw.get("revision")
    return Adapter(
        folder,
        rank,
        alpha / (rank**0.5 if raw.get("use_rslora") else rank),
        f"{base}@{revision}" if isinstance(revision, str) and revision and not Path(base).is_dir() else base,
        _names_or_pattern(raw, "target_modules", path),
        _names_or_pattern(raw, "exclude_modules", path),
        _layers(raw, path),
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _names_or_pattern(raw: dict[str, Any], key: str, path: Path) -> tuple[str, ...] | str | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value)
    if isinstance(value, str):
        try:
            re.compile(value)
        except re.error as error:
            raise UserError(f"{path}: {key} is {_short(value)}, no regular expression ({error}); correct it") from None
        return value
    raise UserError(f"{path}: {key} is {_short(value)}; it must be a list of names or a regular expression")


def _layers(raw: dict[str, Any], path: Path) -> tuple[int, ...] | None:
    value = raw.get("layers_to_transform")
    if value in (None, []):
        return None
    layers = value if isinstance(value, list) else [value]
    if not all(isinstance(layer, int) and layer >= 0 for layer in layers):
        raise UserError(f"{path}: layers_to_transform is {_short(value)}; it must be layer numbers")
    return tuple(layers)


def _module(leaf: Leaf, layer: int) -> str:
    """Return the name of a dense layer in the model, "model.layers.0.mlp.up_proj"."""
    return leaf.template.format(layer).removesuffix(".weight")


def _names(leaf: Leaf, layer: int) -> tuple[str, str]:
    """Return the stored names of a dense layer's two factors."""
    module = PREFIX + _module(leaf, layer)
    return f"{module}.lora_A.weight", f"{module}.lora_B.weight"


class AdapterFile:
    """The mapped factors of an adapter, checked against its settings and the shape of its base.

    A layer without factors adds nothing; which layers have some is what the settings say.
    """

    def __init__(self, adapter: Adapter, config: ModelConfig):
        self.adapter = adapter
        self._config = config
        path = adapter.folder / WEIGHTS
        if not path.is_file():
            found = sorted(file.name for file in adapter.folder.glob("adapter_model*"))
            pickled = f" ({found[0]} is not read; save it as safetensors)" if found else ""
            raise UserError(f"{path}: no such file; an adapter's folder holds it beside {CONFIG}{pickled}")
        self._file = MappedFile(path)
        expected = {}
        for leaf in dense_kernels(config).values():
            outputs, inputs = leaf.stored_shape
            for layer in range(leaf.shape[0]):
                a, b = _names(leaf, layer)
                expected |= {a: (adapter.rank, inputs), b: (outputs, adapter.rank)}
        for name, stored in self._file.tensors.items():
            if name not in expected:
                raise UserError(
                    f"{path}: tensor {name} is no factor of a dense layer of its base, {MERGE}; or give the adapter of "
                    "this base"
                )
            if expected[name] != stored.shape or stored.code not in FLOATS:
                raise UserError(
                    f"{path}: tensor {name} is {stored.code} of shape {list(stored.shape)}; base and {CONFIG} make it "
                    f"floats of shape {list(expected[name])}; give the adapter of this base"
                )
        if not self._file.tensors:
            raise UserError(f"{path}: holds no factors; copy the adapter again")
        for leaf in dense_kernels(config).values():
            for layer in range(leaf.shape[0]):
                self._check_layer(leaf, layer, path)

    def _check_layer(self, leaf: Leaf, layer: int, path: Path) -> None:
        """Both factors are stored, or none; and they are stored where the settings say so."""
        found = [tensor in self._file.tensors for tensor in _names(leaf, layer)]
        module = _module(leaf, layer)
        if any(found) and not all(found):
            missing = _names(leaf, layer)[found.index(False)]
            raise UserError(f"{path}: tensor {missing} is missing beside the other factor; copy the adapter again")
        wanted = self.adapter.adapts(module, layer)
        if wanted is not None and wanted != found[0]:
            fault = "has no factors of" if wanted else "has factors of"
            says = "name it" if wanted else "do not name it"
            raise UserError(
                f"{path}: {fault} {module}, but target_modules and layers_to_transform in {CONFIG} {says}; copy both "
                "files again"
            )

    def factors(self, name: str, layer: int) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (a [in, r], b [r, out]), fp32, of a dense layer ("q"); None where it has no factors."""
        leaf = dense_kernels(self._config)[name]
        stored = _names(leaf, layer)
        if stored[0] not in self._file.tensors:
            return None
        a, b = (self._file.view(tensor) for tensor in stored)
        return a.astype(np.float32).T, b[leaf.rows].astype(np.float32).T

    def stacked(self, name: str) -> tuple[np.ndarray, np.ndarray] | None:
        """Return (a [L, in, r], b [L, r, out]), fp32, zeros in layers without factors; None where no layer has some."""
        depth, inputs, outputs = dense_kernels(self._config)[name].shape
        found = [self.factors(name, layer) for layer in range(depth)]
        if all(factors is None for factors in found):
            return None
        rank = self.adapter.rank
        nothing = np.zeros((inputs, rank), np.float32), np.zeros((rank, outputs), np.float32)
        return tuple(np.stack(factor) for factor in zip(*(factors or nothing for factors in found), strict=True))


def load_adapter(file: AdapterFile, config: ModelConfig, *, dtype: Any, shardings: Params) -> Params:
    """Load the adapter as a delta (see `models.weights`), on `shardings`, a tree like `weights.adapter_shapes`."""
    dtype = float_dtype(dtype)
    layers = {}
    for name in dense_kernels(config):
        if (factors := file.stacked(name)) is not None:
            where = shardings["layers"][name]["lora"]
            a, b = (
                jax.make_array_from_callback(x.shape, to, lambda index, x=x: x[index])
                for x, to in zip((x.astype(dtype) for x in factors), (where.a, where.b), strict=True)
            )
            layers[name] = {"lora": LoRA(a, b, file.adapter.scale)}
    return {"layers": layers}


def save_adapter(
    folder: Path, delta: Params, config: ModelConfig, raw_config: dict[str, Any], base: Path, named: str, card: str
) -> None:
    """Write an adapter's folder whole or not at all, factors in fp32.

    Every process calls this; the first one writes, and all return when the folder is complete.

    Args:
      delta: the adapter's tree, sharded in any way.
      folder: replaced if it exists.
      config: shape of base.
      raw_config: content of base's config.json.
      base: base's local folder; its tokenizer is copied.
      named: what base_model_name_or_path says: a path or a hub id.
      card: Markdown of the `README.md`.
    """
    factors = {name: layer["lora"] for name, layer in delta["layers"].items()}
    whole = jax.tree.map(fetch, factors)
    kernels = {name: leaf for name, leaf in dense_kernels(config).items() if name in whole}
    modules = sorted({leaf.template.split(".")[-2] for leaf in kernels.values()})
    first = next(iter(whole.values()))
    # Dense layers that are stored as one tensor have one adapter there: their ranks add up. One rank holds for all
    # modules, so the others are padded with zeros, which change no product.
    fused: dict[str, list[str]] = {}
    for name, leaf in kernels.items():
        fused.setdefault(leaf.template, []).append(name)
    rank = first.a.shape[-1] * max(map(len, fused.values()))
    tensors: dict[str, np.ndarray] = {}
    for name, lora in whole.items():
        leaf, start = kernels[name], fused[kernels[name].template].index(name) * first.a.shape[-1]
        part = slice(start, start + first.a.shape[-1])
        for layer in range(config.num_hidden_layers):
            a, b = _names(leaf, layer)
            outputs, inputs = leaf.stored_shape
            tensors.setdefault(a, np.zeros((rank, inputs), np.float32))[part] = np.asarray(lora.a[layer], np.float32).T
            joined = tensors.setdefault(b, np.zeros((outputs, rank), np.float32))
            joined[leaf.rows, part] = np.asarray(lora.b[layer], np.float32).T
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
            write_companion_files(partial, raw_config, config, base, np.dtype(np.float32))
            write_text(partial / "README.md", card)
    wait_for_all(f"adapter {folder}")


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
    """Write base's stored weights with the adapter's products added: summed in fp32, stored in `dtype`.

    One tensor at a time and without a device, so that a model that only fits in int8 is merged in full.

    Args:
      folder: replaced if it exists.
      adapter: the settings of the adapter.
      base: base's local folder.
      config: shape of base.
      raw_config: content of base's config.json.
      dtype: stored: float32, bfloat16 or float16.
      max_shard_bytes: a file holds at most this, or a single larger tensor.
      model_card: Markdown of the `README.md`.

    Returns:
      On the first process, the share of the update that `dtype` keeps, as `stages.export.surviving_update`.
    """
    dtype = float_dtype(dtype)
    stored, file = Checkpoint(base), AdapterFile(adapter, config)
    stored.check(config)
    sums = np.zeros(2)

    def tensors() -> Iterator[np.ndarray]:
        for tensor, parts, layer in export_order(config):
            whole = np.empty(parts[0].stored_shape, np.float32)
            stored.read_into(whole, tensor, (slice(0, whole.shape[0]), *(slice(None),) * (whole.ndim - 1)), False)
            merged = whole
            for leaf in parts if layer is not None and parts[0].name.endswith("/kernel") else ():
                if (factors := file.factors(leaf.name.split("/")[1], layer)) is not None:
                    merged = whole.copy() if merged is whole else merged
                    a, b = factors
                    merged[leaf.rows] += adapter.scale * (b.T @ a.T)  # stored as [out, in]
            out = np.empty(whole.shape, dtype)
            copy_cast(out, merged)
            if merged is not whole:
                wanted = merged - whole
                sums[:] += np.vdot(wanted, out.astype(np.float32) - whole), np.vdot(wanted, wanted)
            yield out

    if jax.process_index() == 0:
        write_model(folder, tensors(), config, raw_config, base, dtype, max_shard_bytes, model_card)
    wait_for_all(f"adapter {folder}")
    return float(sums[0] / max(sums[1], 1e-30))
