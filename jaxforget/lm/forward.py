"""The module of a model, its forward functions, and the shapes and shardings of its parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh

from jaxforget.errors import UserError
from jaxforget.models.attention import attend
from jaxforget.models.config import ModelConfig
from jaxforget.models.cudnn import cudnn_attention
from jaxforget.models.embedding import ShardedLookUp
from jaxforget.models.layout import leaves
from jaxforget.models.splash import SplashAttention, has_splash
from jaxforget.models.transformer import Transformer
from jaxforget.models.weights import apply_delta
from jaxforget.sharding import ActivationSharding, shard_params
from jaxforget.train.types import Forward, Params

SHALLOW = 4  # layers up to which a loop over layers is unrolled
ATTENTIONS = ("auto", "plain")


class ComputeOptions(Protocol):
    """Options that say how a model computes; the configuration's section `model` has all three."""

    dtype: str
    remat: str
    attention: str


def make_module(config: ModelConfig, mesh: Mesh, dtype: str, remat: str, attention: str) -> Transformer:
    """Return the Linen module of a model; its activations are pinned to the mesh's batch axes.

    Args:
      config: shape of the model.
      mesh: devices that it runs on.
      dtype: of the computation, "float32" or "bfloat16".
      remat: as the option model.remat.
      attention: as the option model.attention.
    """
    return Transformer(
        config,
        dtype=jnp.dtype(dtype),
        remat=remat,
        unroll=_unrolled(config, remat),
        constrain=ActivationSharding(mesh),
        look_up=ShardedLookUp(mesh),
        attend=choose_attention(mesh, attention),
    )


def choose_attention(mesh: Mesh, attention: str) -> Callable[..., jax.Array]:
    """Return the attention function of a model on `mesh`: a flash kernel where the devices have one, else `attend`."""
    if attention == "plain":
        return attend
    return SplashAttention(mesh) if has_splash(mesh) else cudnn_attention(mesh) or attend


def configured_module(
    options: ComputeOptions, config: ModelConfig, mesh: Mesh, *, remat: str | None = None
) -> Transformer:
    """Return `make_module` for the configuration's section `model`; `remat` replaces the one of the options."""
    return make_module(config, mesh, options.dtype, options.remat if remat is None else remat, options.attention)


def recomputing(module: Transformer, remat: str) -> Transformer:
    """Return `module` with another remat."""
    return module.clone(remat=remat, unroll=_unrolled(module.config, remat))


def _unrolled(config: ModelConfig, remat: str) -> int:
    # A loop over few layers costs more time (residuals are copied in and out) than its shorter compilation saves. With
    # remat the loop stays: only it keeps the compiler from recomputing all layers at once, which needs as much memory
    # as no remat.
    return config.num_hidden_layers if config.num_hidden_layers <= SHALLOW and remat == "none" else 1


def make_forward(module: Transformer) -> Forward:
    """Return the pure functions of `module` that a training step takes."""

    def states(params: Params, tokens: jax.Array, layer: int) -> jax.Array:
        first = module.clone(config=first_layers(module.config, layer))
        layers = jax.tree.map(lambda x: x[:layer], params["layers"])
        return first.apply({"params": {**params, "layers": layers}}, tokens, method="states")

    return Forward(
        hidden=lambda params, tokens: module.apply({"params": params}, tokens, method="hidden"),
        head=lambda params: module.apply({"params": params}, method="head"),
        apply_delta=apply_delta,
        soft_cap=module.config.logit_soft_cap,
        states=states,
    )


def first_layers(config: ModelConfig, count: int) -> ModelConfig:
    """Return the shape of a model that ends after `count` layers.

    Raises:
      UserError: the model has fewer layers.
    """
    if not 0 < count <= config.num_hidden_layers:
        raise UserError(f"objective.layer={count}: the model has layers 1 to {config.num_hidden_layers}")
    return dataclasses.replace(
        config, num_hidden_layers=count, windows=config.windows[:count], rotating=config.rotating[:count]
    )


def param_shapes(config: ModelConfig, dtype: Any) -> Params:
    """Return the parameter tree of `config` as `ShapeDtypeStruct`s of `dtype`."""
    flat = {leaf.name: jax.ShapeDtypeStruct(leaf.shape, dtype) for leaf in leaves(config)}
    return unflatten_dict(flat, sep="/")


def param_shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """Return the `NamedSharding` of every parameter of `config` on `mesh`."""
    return shard_params(param_shapes(config, jnp.float32), mesh)
