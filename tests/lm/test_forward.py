"""The forward functions of a model: values, gradients with remat, choice of attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxforget
from jaxforget.lm.forward import make_forward, make_module
from jaxforget.lm.model import load
from jaxforget.models.attention import attend
from jaxforget.models.splash import SplashAttention


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


@pytest.mark.parametrize(("attention", "kernel"), [("auto", True), ("plain", False)])
def test_attention_is_the_kernel_where_there_is_one_and_nobody_said_plain(attention, kernel, tiny_world, monkeypatch):
    monkeypatch.setattr("jaxforget.lm.forward.has_splash", lambda mesh: True)
    model = load(tiny_world / "base", attention=attention)
    assert isinstance(model.module.attend, SplashAttention) == kernel
    monkeypatch.undo()
    assert load(tiny_world / "base").module.attend is attend  # a CPU has none
