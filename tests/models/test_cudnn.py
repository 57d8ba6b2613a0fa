"""cuDNN's attention: computed by XLA in its place, lowered for CUDA, and chosen only where the devices have it."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn
from jax.export import DisabledSafetyCheck, export

from jaxforget.lm.forward import choose_attention, make_module
from jaxforget.models.attention import Scope, attend
from jaxforget.models.config import ModelConfig
from jaxforget.models.cudnn import CudnnAttention, cudnn_attention
from jaxforget.models.splash import SplashAttention
from jaxforget.tpu.flops import attention_of
from tests.models.test_splash import ULP, case, mesh_of, values_and_gradients

FORWARD, BACKWARD = "__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"
CONFIG = ModelConfig.from_hf(
    {"model_type": "llama", "vocab_size": 64, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2}
    | {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 128}
)


def fake_mesh(*devices):
    return SimpleNamespace(devices=np.array(devices).reshape(-1, 1, 1))


def gpu(capability):
    return SimpleNamespace(platform="gpu", device_kind="a card", compute_capability=capability)


@pytest.fixture
def card(monkeypatch):
    """Let JAX trace for a card that this machine does not have."""
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91_100)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)


def cuda_calls(function, *arguments) -> list[str]:
    """Return the cuDNN calls of a function that is lowered for CUDA."""
    checks = [DisabledSafetyCheck.custom_call(name) for name in (FORWARD, BACKWARD)]
    program = export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)(*arguments).mlir_module()
    return [name for name in (FORWARD, BACKWARD) for _ in range(program.count(f"@{name}("))]


@pytest.mark.parametrize(
    ("sizes", "axes"),
    [
        ({"length": 128, "groups": 4}, {}),
        ({"length": 200, "groups": 1}, {}),
        ({"rows": 4}, {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
    ids=["all-heads", "grouped", "mesh"],
)
def test_the_call_means_what_plain_attention_means(sizes, axes):
    """Scale, causality, grouped heads and sharding of the call, computed by XLA in place of cuDNN."""
    inputs = case(**sizes)
    attention = CudnnAttention(mesh_of(**axes), implementation="xla")
    assert attention.serves(*inputs[:2])
    found = values_and_gradients(attention, *inputs)
    exact = values_and_gradients(attend, *(x.astype(jnp.float32) for x in inputs[:3]), inputs[3])
    for ours, expected in zip(found, exact, strict=True):
        assert np.linalg.norm(ours - expected) < 2 * ULP * np.linalg.norm(expected)


@pytest.mark.parametrize(("windows", "layer"), [((60,), None), ((None, 60), 0), ((None, 60), 1)], ids=str)
def test_windows_mean_what_they_mean_in_plain_attention(windows, layer):
    inputs = case(length=128)
    scope, layer = Scope(windows), None if layer is None else jnp.int32(layer)
    attention = CudnnAttention(mesh_of(), implementation="xla")
    found = values_and_gradients(lambda *x: attention(*x, scope, layer), *inputs)
    exact = values_and_gradients(
        lambda *x: attend(*x, scope, layer), *(x.astype(jnp.float32) for x in inputs[:3]), inputs[3]
    )
    for ours, expected in zip(found, exact, strict=True):
        assert np.linalg.norm(ours - expected) < 2 * ULP * np.linalg.norm(expected)


def test_with_soft_caps_attention_is_plain():
    inputs, scope = case(length=128), Scope(soft_cap=2.0)
    np.testing.assert_array_equal(CudnnAttention(mesh_of())(*inputs, scope), attend(*inputs, scope))


def test_padding_behind_a_row_changes_no_result_before_it():
    """Right padding needs no mask: no gradient reaches it from the positions before it, and it changes none of them."""
    query, key, value, positions = case(length=128)
    attention = CudnnAttention(mesh_of(), implementation="xla")
    used = 77

    def total(query, key, value):
        return jnp.sum(attention(query, key, value, positions)[:, :used].astype(jnp.float32) ** 2)

    gradients = jax.grad(total, (0, 1, 2))(query, key, value)
    other = [x.at[:, used:].set(7.0) for x in (query, key, value)]
    for ours, theirs in zip(gradients, jax.grad(total, (0, 1, 2))(*other), strict=True):
        np.testing.assert_array_equal(ours[:, :used].astype(jnp.float32), theirs[:, :used].astype(jnp.float32))
        assert not np.any(theirs[:, used:].astype(jnp.float32))


@pytest.mark.parametrize(
    ("sizes", "axes", "widest"),
    [
        ({"dtype": jnp.float32}, {}, 128),
        ({"length": 100}, {}, 128),
        ({"width": 100}, {}, 128),
        ({"width": 256}, {}, 128),
        ({"rows": 3}, {"fsdp": 2}, 128),
        ({"groups": 1}, {"tensor": 2}, 128),
    ],
    ids=["float32", "length", "multiple", "width", "rows", "heads"],
)
def test_where_cudnn_does_not_serve_attention_is_plain(sizes, axes, widest):
    inputs = case(**sizes)
    attention = CudnnAttention(mesh_of(**axes), widest)  # a CPU could not run cuDNN's
    assert not attention.serves(*inputs[:2])
    np.testing.assert_array_equal(attention(*inputs), attend(*inputs))


@pytest.mark.parametrize("axes", [{}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=["one", "mesh"])
def test_lowered_for_cuda_attention_is_cudnns_forward_and_backward(card, axes):
    query, key, value, positions = case(rows=4)
    attention = CudnnAttention(mesh_of(**axes))

    def total(*arrays):
        return jnp.sum(attention(*arrays, positions).astype(jnp.float32))

    assert cuda_calls(total, query, key, value) == [FORWARD]
    assert cuda_calls(jax.grad(total, (0, 1, 2)), query, key, value) == [FORWARD, BACKWARD]
    assert attention_of(jax.make_jaxpr(total)(query, key, value)) == "cudnn"


@pytest.mark.parametrize("remat", ["full", "mlp", "dots", "none"])
def test_a_whole_llama_lowers_for_cuda(card, monkeypatch, remat):
    """Layers in a loop; under every remat but "none" the backward pass runs the forward kernel again."""
    mesh = mesh_of(fsdp=2)
    monkeypatch.setattr("jaxforget.lm.forward.cudnn_attention", CudnnAttention)
    module = make_module(CONFIG, mesh, "bfloat16", remat, "auto")
    tokens = jnp.zeros((2, 128), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]

    def total(params, tokens):
        return jnp.sum(module.apply({"params": params}, tokens, method="hidden").astype(jnp.float32))

    calls = cuda_calls(jax.grad(total), params, tokens)
    # Without remat the two layers are unrolled, and JAX 0.11 lowers each of them.
    assert calls.count(BACKWARD) in ((1, 2) if remat == "none" else (1,))
    assert calls.count(FORWARD) == calls.count(BACKWARD) * (1 if remat == "none" else 2)


@pytest.mark.parametrize(
    ("devices", "widest"),
    [
        ([gpu("8.0")], 128),
        ([gpu("9.0"), gpu("9.0")], 256),
        ([gpu("9.0"), gpu("8.6")], 128),
        ([gpu("12.0")], 256),
        ([gpu("7.5")], None),
        ([gpu("gfx90a")], None),
        ([SimpleNamespace(platform="cpu", device_kind="cpu")], None),
        ([SimpleNamespace(platform="tpu", device_kind="TPU v4")], None),
    ],
    ids=["ampere", "hopper", "mixed", "blackwell", "turing", "amd", "cpu", "tpu"],
)
def test_cards_that_have_it(devices, widest):
    found = cudnn_attention(fake_mesh(*devices))
    assert (found and found.widest) == widest


def test_the_choice():
    cards, chips, processors = (
        fake_mesh(gpu("9.0")),
        fake_mesh(SimpleNamespace(platform="tpu", device_kind="TPU v4")),
        mesh_of(),
    )
    assert isinstance(choose_attention(cards, "auto"), CudnnAttention)
    assert isinstance(choose_attention(chips, "auto"), SplashAttention)
    assert choose_attention(processors, "auto") is attend
    assert choose_attention(cards, "plain") is attend
