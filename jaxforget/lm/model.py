"""A loaded model: a folder's weights on a mesh, with its tokenizer and its module."""

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from jaxforget.errors import UserError
from jaxforget.lm.forward import ATTENTIONS, make_module, param_shardings
from jaxforget.models.adapters import CONFIG as ADAPTER_CONFIG
from jaxforget.models.adapters import AdapterFile, is_adapter, load_adapter, read_adapter
from jaxforget.models.config import ModelConfig
from jaxforget.models.folders import read_config, resolve_base, resolve_folder
from jaxforget.models.layout import parameter_count
from jaxforget.models.load import load_params
from jaxforget.models.tokenizer import fit_tokenizer, load_tokenizer
from jaxforget.models.transformer import REMATS, Transformer
from jaxforget.models.weights import adapter_shapes, apply_delta, difference, merged, quantise
from jaxforget.sharding import make_mesh, shard_params
from jaxforget.train.types import Params

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True, repr=False)
class Model:
    """A model in memory.

    Attributes:
      config: its shape and token ids.
      params: its parameters, laid out on `mesh`; dense layers may be in any form of `models.weights`.
      tokenizer: a transformers tokenizer.
      module: the Linen module; `module.apply({"params": params}, tokens)` gives its logits.
      mesh: the devices that hold it.
      folder: the local folder that it was read from.
      raw_config: the content of that folder's config.json.
      tokenizer_folder: the folder that holds the tokenizer, the generation config and the licence; that of its base,
        for an adapter.
    """

    config: ModelConfig
    params: Params
    tokenizer: Any
    module: Transformer
    mesh: Mesh
    folder: Path
    raw_config: dict[str, Any]
    tokenizer_folder: Path

    def __repr__(self) -> str:
        """Return one line: family, parameters, dtype, devices and folder."""
        family = self.raw_config.get("model_type", "model")
        size, devices = parameter_count(self.config), self.mesh.devices.flat
        kinds = ", ".join(sorted({device.device_kind for device in devices}))
        return (
            f"Model({family}, {_shortened_count(size)} parameters, {np.dtype(self.module.dtype).name}, "
            f"{self.mesh.size} x {kinds}, {self.folder})"
        )


def _shortened_count(size: int) -> str:
    """Return 6738415616 as "6.74B"."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if size >= unit:
            return f"{size / unit:.3g}{letter}"
    return str(size)


def load(
    folder: str | Path,
    dtype: str = "float32",
    mesh: Mesh | None = None,
    remat: str = "none",
    *,
    attention: str = "auto",
    form: str = "full",
    base: Model | None = None,
) -> Model:
    """Load a model: whole weights, or an adapter together with the base that it names.

    Args:
      folder: a folder with config.json, safetensors and a tokenizer; a hub id, "owner/name" or "owner/name@revision";
        or an address, "gs://bucket/folder".
      dtype: of the parameters and of the computation: "float32" or "bfloat16".
      mesh: from `jaxforget.sharding.make_mesh`; None splits the weights over all devices.
      remat: what a backward pass recomputes, as the option model.remat.
      attention: "auto" or "plain", as the option model.attention.
      form: how dense kernels are held: "full", or "int8" with a scale for each output channel.
      base: the model that an adapter is applied to, instead of the base that it names; the two share arrays.

    Raises:
      UserError: a file is missing or malformed, or asks for what is not computed here; names the file or tensor.
    """
    choices = (("dtype", dtype, DTYPES), ("remat", remat, REMATS), ("attention", attention, ATTENTIONS))
    for name, value, known in choices:
        if value not in known:
            raise UserError(f"{name}={value!r}: give one of {', '.join(known)}")
    mesh = make_mesh() if mesh is None else mesh
    local = resolve_folder(folder)
    if is_adapter(local):
        if base is None:
            base = load(resolve_base(read_adapter(local)), dtype, mesh, remat, attention=attention, form=form)
        return dataclasses.replace(base, params=apply_delta(base.params, load_delta(local, base, dtype)), folder=local)
    if (local / ADAPTER_CONFIG).is_file():
        log.warning("%s: holds whole weights, which are loaded; its adapter files are ignored", local)
    config, raw = read_config(local)
    tokenizer = load_tokenizer(local)
    fit_tokenizer(tokenizer, config)
    module = make_module(config, mesh, dtype, remat, attention)
    return Model(config, _load_whole(local, config, mesh, dtype, form), tokenizer, module, mesh, local, raw, local)


def materialize(model: Model) -> Model:
    """Return `model` with every weight as one float array, for code that changes weights."""
    where = param_shardings(model.config, model.mesh)
    if jax.tree.structure(where) == jax.tree.structure(model.params):
        return model
    sums = jax.jit(lambda params: merged(params, model.params["embed"].dtype), out_shardings=where)
    return dataclasses.replace(model, params=sums(model.params))


def load_delta(folder: Path, base: Model, dtype: str, form: str = "full") -> Params:
    """Load the delta of a model over `base`: the weights that the two do not share, see `models.weights`.

    Args:
      folder: whole weights of base's shape, or an adapter.
      base: the model that the delta is applied to; the delta is loaded on its mesh.
      dtype: of everything that is not int8.
      form: how whole weights are held: "full", or "int8-delta", int8 differences from base's kernels.

    Raises:
      UserError: the files do not fit `base`; names the file or tensor.
    """
    if is_adapter(folder):
        file = AdapterFile(read_adapter(folder), base.config)
        shapes = adapter_shapes(base.config, file.adapter.rank, 1.0)
        return load_adapter(file, base.config, dtype=dtype, shardings=shard_params(shapes, base.mesh))
    if form == "full":
        return _load_whole(folder, base.config, base.mesh, dtype, "full")
    under = base.params["layers"]

    def convert(name: str, array: jax.Array) -> Any:
        if not name.endswith("/kernel"):
            return array.astype(dtype)
        return _converted(difference, name, base.mesh, under[name.split("/")[1]]["kernel"], array)

    # The weights stay in fp32 until the difference is taken: rounding first would lose what training changed.
    params = load_params(
        folder, base.config, dtype="float32", shardings=param_shardings(base.config, base.mesh), convert=convert
    )
    layers = {
        name: {"delta" if key == "kernel" else key: value for key, value in layer.items()}
        for name, layer in params["layers"].items()
    }
    return {**params, "layers": layers}


def _load_whole(folder: Path, config: ModelConfig, mesh: Mesh, dtype: str, form: str) -> Params:
    """Load whole weights, dense kernels in `form` ("full" or "int8")."""

    def convert(name: str, array: jax.Array) -> Any:
        if form == "full" or not name.endswith("/kernel"):
            return array
        return _converted(quantise, name, mesh, array)

    return load_params(folder, config, dtype=dtype, shardings=param_shardings(config, mesh), convert=convert)


def _converted(function: Callable, name: str, mesh: Mesh, *arrays: Any) -> Any:
    """Return `function(*arrays)`, sharded as the parameter `name`."""
    where = shard_params(unflatten_dict({name: jax.eval_shape(function, *arrays)}, sep="/"), mesh)
    return jax.jit(function, out_shardings=flatten_dict(where, sep="/")[name])(*arrays)
