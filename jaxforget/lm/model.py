"""A loaded model: parameters on a mesh, tokenizer, and the functions that the training step is given."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from jaxforget.errors import UserError
from jaxforget.lm.generate import Complete, generate
from jaxforget.lm.prompts import encode_prompt, encode_prompts
from jaxforget.models.adapters import AdapterFile, is_adapter, load_adapter, read_adapter
from jaxforget.models.attention import attend
from jaxforget.models.config import ModelConfig
from jaxforget.models.embedding import ShardedLookUp
from jaxforget.models.folders import read_config, resolve_folder
from jaxforget.models.layout import leaves
from jaxforget.models.load import load_params
from jaxforget.models.splash import SplashAttention, has_splash
from jaxforget.models.tokenizer import check_tokenizer, load_tokenizer
from jaxforget.models.transformer import REMATS, Transformer
from jaxforget.models.weights import adapter_shapes, apply_delta, difference, merged, quantise
from jaxforget.sharding import ActivationSharding, make_mesh, shard_params
from jaxforget.train.types import Forward, Params

SHALLOW = 4
DTYPES = ("float32", "bfloat16")
ATTENTIONS = ("auto", "plain")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model in memory.

    Attributes:
      config: its shape.
      params: its parameters, laid out on `mesh`; dense layers may be in any form of `models.weights`.
      tokenizer: a transformers tokenizer.
      module: the Linen module; `module.apply({"params": params}, tokens)` are its logits.
      mesh: where it lives.
      folder: the local folder it was read from.
      raw_config: that folder's config.json, whole.
    """

    config: ModelConfig
    params: Params
    tokenizer: Any
    module: Transformer
    mesh: Mesh
    folder: Path
    raw_config: dict[str, Any]


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
    """Loads a Hugging Face folder, hub id or gs:// path; an adapter's folder with the base that it names.

    Args:
      folder: config.json, safetensors and a tokenizer.
      dtype: of the parameters and of the computation: "float32" or "bfloat16".
      mesh: from `jaxforget.sharding.make_mesh`; None splits the weights over all devices.
      remat: what a backward pass recomputes, as the option model.remat.
      attention: "auto" or "plain", as the option model.attention.
      form: how dense kernels are held: "full", or "int8" with a scale an output channel.
      base: what an adapter is laid over, in place of the base that it names; their arrays are shared.

    Raises:
      UserError: anything missing, malformed or not a Llama; names the file or tensor.
    """
    choices = (("dtype", dtype, DTYPES), ("remat", remat, REMATS), ("attention", attention, ATTENTIONS))
    for name, value, known in choices:
        if value not in known:
            raise UserError(f"{name}={value!r}: give one of {', '.join(known)}")
    mesh = make_mesh() if mesh is None else mesh
    local = resolve_folder(folder)
    if is_adapter(local):
        if base is None:
            base = load(read_adapter(local).base, dtype, mesh, remat, attention=attention, form=form)
        return dataclasses.replace(base, params=apply_delta(base.params, load_delta(local, base, dtype)), folder=local)
    config, raw = read_config(local)
    tokenizer = load_tokenizer(local)
    check_tokenizer(tokenizer, config)
    module = make_module(config, mesh, dtype, remat, attention)
    return Model(config, _load_whole(local, config, mesh, dtype, form), tokenizer, module, mesh, local, raw)


def materialize(model: Model) -> Model:
    """`model` with every weight as one float array, for whatever changes weights rather than reads them."""
    where = param_shardings(model.config, model.mesh)
    if jax.tree.structure(where) == jax.tree.structure(model.params):
        return model
    sums = jax.jit(lambda params: merged(params, model.params["embed"].dtype), out_shardings=where)
    return dataclasses.replace(model, params=sums(model.params))


def load_delta(folder: Path, base: Model, dtype: str, form: str = "full") -> Params:
    """What the model in `folder`, a relative of `base`, has of its own: see `models.weights`.

    Args:
      folder: whole weights, or an adapter.
      base: on whose mesh it is loaded.
      dtype: of what is not int8.
      form: how whole weights are held: "full", or as "int8-delta", int8 differences over base's kernels.
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

    # In fp32 until the difference is taken: rounded first, it would lose what training changed.
    params = load_params(
        folder, base.config, dtype="float32", shardings=param_shardings(base.config, base.mesh), convert=convert
    )
    layers = {
        name: {"delta" if key == "kernel" else key: value for key, value in layer.items()}
        for name, layer in params["layers"].items()
    }
    return {**params, "layers": layers}


def _load_whole(folder: Path, config: ModelConfig, mesh: Mesh, dtype: str, form: str) -> Params:
    def convert(name: str, array: jax.Array) -> Any:
        if form == "full" or not name.endswith("/kernel"):
            return array
        return _converted(quantise, name, mesh, array)

    return load_params(folder, config, dtype=dtype, shardings=param_shardings(config, mesh), convert=convert)


def _converted(function: Callable, name: str, mesh: Mesh, *arrays: Any) -> Any:
    """`function(*arrays)` placed as a kernel called `name`."""
    where = shard_params(unflatten_dict({name: jax.eval_shape(function, *arrays)}, sep="/"), mesh)
    return jax.jit(function, out_shardings=flatten_dict(where, sep="/")[name])(*arrays)


def make_module(config: ModelConfig, mesh: Mesh, dtype: str, remat: str, attention: str) -> Transformer:
    """The Linen module of `config`, computing in `dtype`, its activations pinned to `mesh`'s batch axes.

    remat and attention: as the options of those names, model.remat and model.attention.
    """
    return Transformer(
        config,
        dtype=jnp.dtype(dtype),
        remat=remat,
        unroll=_unrolled(config, remat),
        constrain=ActivationSharding(mesh),
        look_up=ShardedLookUp(mesh),
        attend=SplashAttention(mesh) if attention == "auto" and has_splash(mesh) else attend,
    )


def recomputing(module: Transformer, remat: str) -> Transformer:
    """`module` with another remat."""
    return module.clone(remat=remat, unroll=_unrolled(module.config, remat))


def _unrolled(config: ModelConfig, remat: str) -> int:
    # A loop around very few layers costs more time (residuals copied in and out) than its shorter compilation saves.
    # But only a loop keeps the compiler from recomputing all layers at once, which holds as much as no remat.
    return config.num_hidden_layers if config.num_hidden_layers <= SHALLOW and remat == "none" else 1


def make_forward(module: Transformer) -> Forward:
    """`module` as the pair of pure functions that a training step takes."""
    return Forward(
        hidden=lambda params, tokens: module.apply({"params": params}, tokens, method="hidden"),
        head=lambda params: module.apply({"params": params}, method="head"),
        apply_delta=apply_delta,
    )


def param_shapes(config: ModelConfig, dtype: Any) -> Params:
    """The parameter tree of `config` as `ShapeDtypeStruct`s."""
    flat = {leaf.name: jax.ShapeDtypeStruct(leaf.shape, dtype) for leaf in leaves(config)}
    return unflatten_dict(flat, sep="/")


def param_shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """The `NamedSharding` of every parameter of `config` on `mesh`."""
    return shard_params(param_shapes(config, jnp.float32), mesh)


def completer(model: Model, **sampling: Any) -> Complete:
    """Generation by `model`, (token ids of prompts, new tokens) -> new token ids, the end token left out; greedy unless
    `sampling` (see `models.generate.generate`) says otherwise."""
    eos = model.config.eos_token_id
    ends = () if eos is None else eos if isinstance(eos, tuple) else (eos,)

    def complete(prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        return generate(
            model.module, model.params, prompts, max_new_tokens=new_tokens, eos_ids=ends, mesh=model.mesh, **sampling
        )

    return complete


def complete(model: Model, prompts: Sequence[str], new_tokens: int, **sampling: Any) -> list[str]:
    """The text that follows each prompt; greedy unless `sampling` (see `models.generate.generate`) says otherwise.

    Raises:
      UserError: a prompt and its new tokens are beyond the positions that the model was trained on.
    """
    if not prompts:
        return []
    ids = encode_prompts(model.tokenizer, prompts)
    room = model.config.max_position_embeddings
    for prompt, tokens in zip(prompts, ids, strict=True):
        if len(tokens) + new_tokens > room:
            raise UserError(
                f"prompt {shortened(prompt)!r}: its {len(tokens)} tokens and {new_tokens} new ones are beyond the "
                f"{room} positions of {model.folder}; ask for fewer"
            )
    new = completer(model, **sampling)(ids, new_tokens)
    return [continuation(model.tokenizer, prompt, made) for prompt, made in zip(prompts, new, strict=True)]


def shortened(text: str, length: int = 40) -> str:
    """`text` on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def continuation(tokenizer: Any, prompt: str, new_ids: list[int]) -> str:
    """The text that `new_ids` add to `prompt`: decoding them alone would lose the space before the first word."""
    before = encode_prompt(tokenizer, prompt)
    whole = tokenizer.decode([*before, *new_ids], skip_special_tokens=True)
    return whole[len(tokenizer.decode(before, skip_special_tokens=True)) :]
