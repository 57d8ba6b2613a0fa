"""A loaded model: its layout on a mesh, its two forward functions, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import jaxforget
from jaxforget.config import options
from jaxforget.errors import UserError
from jaxforget.lm.model import (
    ATTENTIONS,
    DTYPES,
    continuation,
    load,
    make_forward,
    make_module,
    param_shapes,
    param_shardings,
    shortened,
)
from jaxforget.models.attention import attend
from jaxforget.models.splash import SplashAttention
from jaxforget.models.tokenizer import load_tokenizer
from jaxforget.models.transformer import REMATS
from jaxforget.sharding import make_mesh


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_have_the_announced_shapes_and_places(dtype, tiny_world):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    model = load(tiny_world / "base", dtype, mesh)
    shapes = param_shapes(model.config, jnp.dtype(dtype))
    assert jax.tree.map(lambda p: (p.shape, p.dtype), model.params) == jax.tree.map(
        lambda s: (s.shape, s.dtype), shapes
    )
    assert jax.tree.map(lambda p: p.sharding, model.params) == param_shardings(model.config, mesh)
    assert model.mesh is mesh
    flat = traverse_util.flatten_dict(model.params, sep="/")
    # Split over fsdp and tensor, so that a device holds a quarter.
    kernel = flat["layers/gate/kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4


def test_without_a_mesh_all_devices_share(tiny_world, devices):
    assert dict(load(tiny_world / "base").mesh.shape) == {"data": 1, "fsdp": 8, "tensor": 1}


def test_hidden_times_head_are_the_logits(tiny_world):
    model = load(tiny_world / "base")
    forward = make_forward(model.module)
    tokens = jnp.arange(64).reshape(8, 8)  # outside a jit every device must get a row
    hidden, head = forward.hidden(model.params, tokens), forward.head(model.params)
    assert hidden.shape == (8, 8, model.config.hidden_size)
    assert head.shape == (model.config.hidden_size, model.config.vocab_size)
    np.testing.assert_allclose(hidden @ head, jaxforget.logits(model, tokens), atol=1e-5)


@pytest.mark.parametrize("remat", ["full", "mlp", "dots"])
def test_recomputing_changes_neither_values_nor_gradients(remat, tiny_world):
    model = load(tiny_world / "base")
    tokens = jnp.arange(32).reshape(4, 8)

    def gradients(remat):
        forward = make_forward(make_module(model.config, model.mesh, "float32", remat, "plain"))
        return jax.jit(jax.grad(lambda params: jnp.sum(forward.hidden(params, tokens) ** 2)))(model.params)

    plain, again = gradients("none"), gradients(remat)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3), plain, again)


def test_the_choices_of_the_options_are_those_of_load():
    choices = {name: set(field.metadata["choices"]) for name, field in options()}
    for name, known in (("dtype", DTYPES), ("remat", REMATS), ("attention", ATTENTIONS)):
        assert choices[f"model.{name}"] == set(known)


@pytest.mark.parametrize(("attention", "kernel"), [("auto", True), ("plain", False)])
def test_attention_is_the_kernel_where_there_is_one_and_nobody_said_plain(attention, kernel, tiny_world, monkeypatch):
    monkeypatch.setattr("jaxforget.lm.model.has_splash", lambda mesh: True)
    model = load(tiny_world / "base", attention=attention)
    assert isinstance(model.module.attend, SplashAttention) == kernel
    monkeypatch.undo()
    assert load(tiny_world / "base").module.attend is attend  # a CPU has none


def test_equal_settings_share_a_compilation(tiny_world):
    first, second = (load(tiny_world / "base").module for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_what_it_refuses(tiny_world, tmp_path):
    with pytest.raises(UserError, match="dtype='int8': give one of float32, bfloat16"):
        load(tiny_world / "base", "int8")
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="config.json: no such file"):
        load(tmp_path)


def test_a_continuation_keeps_its_first_space(tiny_world):
    tokenizer = load_tokenizer(tiny_world / "base")
    prompt, rest = "Zorvath met", " Quillon near"
    new = tokenizer(prompt + rest)["input_ids"][len(tokenizer(prompt)["input_ids"]) :]
    assert continuation(tokenizer, prompt, new) == rest
    assert continuation(tokenizer, prompt, []) == ""


def test_shortened():
    assert shortened("two\n words") == "two words"
    assert shortened("x" * 41) == "x" * 37 + "..."
