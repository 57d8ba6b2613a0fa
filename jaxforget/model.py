"""A loaded model: parameters on a mesh, tokenizer, and the functions that the training step is given."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxforget.errors import UserError
from jaxforget.models.config import LlamaConfig
from jaxforget.models.hf import check_tokenizer, load_params, load_tokenizer, read_config, resolve_folder
from jaxforget.models.layout import leaves
from jaxforget.models.llama import Llama
from jaxforget.sharding import ActivationSharding, make_mesh, shard_params
from jaxforget.train.types import Forward, Params

SHALLOW = 4
DTYPES = ("float32", "bfloat16")
REMATS = ("full", "dots", "none")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model in memory.

    Attributes:
      config: its shape.
      params: its parameters, laid out on `mesh`.
      tokenizer: a transformers tokenizer.
      module: the Linen module; `module.apply({"params": params}, tokens)` are its logits.
      mesh: where it lives.
      folder: the local folder it was read from.
      raw_config: that folder's config.json, whole.
    """

    config: LlamaConfig
    params: Params
    tokenizer: Any
    module: Llama
    mesh: Mesh
    folder: Path
    raw_config: dict[str, Any]


def load(folder: str | Path, dtype: str = "float32", mesh: Mesh | None = None, remat: str = "none") -> Model:
    """Loads a Hugging Face folder, hub id or gs:// path.

    Args:
      folder: config.json, safetensors and a tokenizer.
      dtype: of the parameters and of the computation: "float32" or "bfloat16".
      mesh: from `jaxforget.sharding.make_mesh`; None splits the weights over all devices.
      remat: what a backward pass recomputes, as the option model.remat.

    Raises:
      UserError: anything missing, malformed or not a Llama; names the file or tensor.
    """
    for name, value, known in (("dtype", dtype, DTYPES), ("remat", remat, REMATS)):
        if value not in known:
            raise UserError(f"{name}={value!r}: give one of {', '.join(known)}")
    mesh = make_mesh() if mesh is None else mesh
    local = resolve_folder(folder)
    config, raw = read_config(local)
    tokenizer = load_tokenizer(local)
    check_tokenizer(tokenizer, config)
    params = load_params(local, config, dtype=dtype, shardings=param_shardings(config, mesh))
    return Model(config, params, tokenizer, make_module(config, mesh, dtype, remat), mesh, local, raw)


def make_module(config: LlamaConfig, mesh: Mesh, dtype: str, remat: str) -> Llama:
    """The Linen module of `config`, computing in `dtype`, its activations pinned to `mesh`'s batch axes."""
    # A loop around very few layers costs more time (residuals copied in and out) than its shorter compilation saves.
    # But only a loop keeps the compiler from recomputing all layers at once, which holds as much as no remat.
    unroll = config.num_hidden_layers if config.num_hidden_layers <= SHALLOW and remat == "none" else 1
    return Llama(config, dtype=jnp.dtype(dtype), remat=remat, unroll=unroll, constrain=ActivationSharding(mesh))


def make_forward(module: Llama) -> Forward:
    """`module` as the pair of pure functions that a training step takes."""
    return Forward(
        hidden=lambda params, tokens: module.apply({"params": params}, tokens, method="hidden"),
        head=lambda params: module.apply({"params": params}, method="head"),
    )


def param_shapes(config: LlamaConfig, dtype: Any) -> Params:
    """The parameter tree of `config` as `ShapeDtypeStruct`s."""
    from flax import traverse_util

    flat = {leaf.name: jax.ShapeDtypeStruct(leaf.shape, dtype) for leaf in leaves(config)}
    return traverse_util.unflatten_dict(flat, sep="/")


def param_shardings(config: LlamaConfig, mesh: Mesh) -> Params:
    """The `NamedSharding` of every parameter of `config` on `mesh`."""
    return shard_params(param_shapes(config, jnp.float32), mesh)
