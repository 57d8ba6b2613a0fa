"""The TPU's attention kernel, interpreted, beside the plain one; where it does not serve the plain one does."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.models.attention import Scope, attend
from jaxforget.models.config import ModelConfig
from jaxforget.models.splash import SplashAttention, has_splash, tiling
from jaxforget.models.transformer import Transformer
from jaxforget.sharding import ActivationSharding, make_mesh

ULP = 2.0**-8  # of bf16, relative


def mesh_of(data=1, fsdp=1, tensor=1):
    return make_mesh(data, fsdp, tensor, devices=jax.devices()[: data * fsdp * tensor])


def case(rows=2, length=256, heads=4, groups=2, width=128, dtype=jnp.bfloat16):
    """Random query (scaled), key and value; positions."""
    rng = np.random.default_rng(length)
    query = rng.standard_normal((rows, length, heads, width), np.float32) * width**-0.5
    key, value = (rng.standard_normal((rows, length, groups, width), np.float32) for _ in range(2))
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    return *(jnp.asarray(x, dtype) for x in (query, key, value)), positions


def values_and_gradients(attention, query, key, value, positions):
    """Output, and the gradients of its weighted sum with respect to query, key and value, fp32."""
    weights = np.random.default_rng(1).standard_normal(query.shape, np.float32)

    def total(*arrays):
        y = attention(*arrays, positions)
        return jnp.sum(y.astype(jnp.float32) * weights), y

    (_, y), gradients = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))(query, key, value)
    return [np.asarray(x.astype(jnp.float32)) for x in (y, *gradients)]


@pytest.mark.parametrize(
    ("sizes", "axes"),
    [
        ({"length": 128, "groups": 4}, {}),
        # Three tiles by three, the last filled up.
        ({"length": 1100, "rows": 1, "heads": 2, "groups": 1, "width": 64}, {}),
        ({"rows": 4}, {"data": 2, "fsdp": 2, "tensor": 2}),
    ],
    ids=["one-tile", "tiles", "mesh"],
)
def test_the_kernel_equals_plain_attention(sizes, axes):
    """Within bf16's rounding: both are compared with plain attention in fp32, and stray alike."""
    inputs = case(**sizes)
    splash = SplashAttention(mesh_of(**axes), interpret=True)
    assert splash.serves(*inputs[:2])
    found = values_and_gradients(splash, *inputs)
    plain = values_and_gradients(attend, *inputs)
    exact = values_and_gradients(attend, *(x.astype(jnp.float32) for x in inputs[:3]), inputs[3])
    for ours, theirs, expected in zip(found, plain, exact, strict=True):
        size = np.linalg.norm(expected)
        assert size > 1
        assert np.linalg.norm(ours - expected) < 1.5 * ULP * size
        assert np.linalg.norm(ours - expected) < 2 * np.linalg.norm(theirs - expected)


@pytest.mark.parametrize(
    ("scope", "layer"),
    [(Scope((100,)), None), (Scope((None, 60), 2.0), 1), (Scope((None, 60), 2.0), 0)],
    ids=["window", "local", "global"],
)
def test_windows_and_soft_caps_by_the_kernel(scope, layer):
    inputs = case(rows=1, heads=2, groups=1, width=64)
    layer = None if layer is None else jnp.int32(layer)
    splash = SplashAttention(mesh_of(), interpret=True)
    found = values_and_gradients(lambda *x: splash(*x, scope, layer), *inputs)
    exact = values_and_gradients(
        lambda *x: attend(*x, scope, layer), *(x.astype(jnp.float32) for x in inputs[:3]), inputs[3]
    )
    everything = values_and_gradients(attend, *(x.astype(jnp.float32) for x in inputs[:3]), inputs[3])
    for ours, expected, other in zip(found, exact, everything, strict=True):
        size = np.linalg.norm(expected)
        assert np.linalg.norm(ours - expected) < 2 * ULP * size
        assert np.linalg.norm(other - expected) > 10 * ULP * size


def test_windows_are_kernels_only_where_a_block_is_longer():
    """Blocks that every window holds run one kernel; longer ones choose between two by the layer."""
    query, key, value, positions = case(rows=1, heads=1, groups=1)
    splash = SplashAttention(mesh_of(), interpret=True)
    for windows, kernels in (((4096, None), 1), ((60, None), 2)):
        program = jax.make_jaxpr(lambda i: splash(query, key, value, positions, Scope(windows), i))(jnp.int32(0))  # noqa: B023
        assert str(program).count("pallas_call[") == kernels


@pytest.mark.parametrize(
    ("sizes", "axes"),
    [
        ({"dtype": jnp.float32}, {}),
        ({"length": 100}, {}),
        ({"width": 96}, {}),
        ({"rows": 3}, {"fsdp": 2}),
        ({"groups": 1}, {"tensor": 2}),
    ],
    ids=["float32", "length", "width", "rows", "heads"],
)
def test_where_the_kernel_does_not_serve_attention_is_plain(sizes, axes):
    inputs = case(**sizes)
    splash = SplashAttention(mesh_of(**axes))  # not interpreted: a CPU could not run it
    assert not splash.serves(*inputs[:2])
    np.testing.assert_array_equal(splash(*inputs), attend(*inputs))


@pytest.mark.parametrize(
    ("length", "tile", "whole"),
    [(128, 128, 128), (640, 640, 640), (1000, 1024, 1024), (1408, 512, 1536), (3712, 512, 4096), (4096, 1024, 4096)],
)
def test_blocks_are_filled_up_to_whole_tiles(length, tile, whole):
    assert tiling(length) == (tile, whole)


@pytest.mark.parametrize(
    ("kind", "platform", "has"),
    [("TPU v3", "tpu", False), ("TPU v4", "tpu", True), ("TPU v5 lite", "tpu", True), ("cpu", "cpu", False)],
)
def test_tpus_that_have_it(kind, platform, has):
    device = SimpleNamespace(platform=platform, device_kind=kind)
    assert has_splash(SimpleNamespace(devices=np.array([[[device]]]))) == has


def test_a_whole_llama_by_the_kernel():
    """Layers scanned and rematerialised, on a mesh: gradients stray from fp32's as those of plain attention do."""
    config = ModelConfig.from_hf(
        {"model_type": "llama", "vocab_size": 64, "hidden_size": 128, "intermediate_size": 64, "num_hidden_layers": 2}
        | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 128}
    )
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    params = Transformer(config).init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    tokens = np.random.default_rng(0).integers(0, 64, (4, 128))
    weights = np.random.default_rng(1).standard_normal((4, 128, 128), np.float32)

    def gradients(dtype, **more):
        module = Transformer(config, dtype=dtype, remat="full", constrain=ActivationSharding(mesh), **more)

        def total(params):
            return jnp.sum(module.apply({"params": params}, tokens, method="hidden").astype(jnp.float32) * weights)

        return jnp.concatenate([x.ravel() for x in jax.tree.leaves(jax.jit(jax.grad(total))(params))])

    exact, plain = gradients(jnp.float32), gradients(jnp.bfloat16)
    splash = gradients(jnp.bfloat16, attend=SplashAttention(mesh, interpret=True))
    strays = [float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)) for found in (splash, plain)]
    assert 0 < strays[0] < 1.3 * strays[1]
    assert strays[1] < 0.1
    assert not (splash == plain).all()


@pytest.mark.parametrize(("remat", "kernels"), [("full", 4), ("mlp", 3), ("dots", 3)])
def test_the_forward_kernel_runs_again_only_where_its_result_is_not_kept(remat, kernels):
    """One forward and two backward, of the one layer in the loop."""
    config = ModelConfig.from_hf(
        {"model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2}
        | {"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 128}
    )
    module = Transformer(
        config, dtype=jnp.bfloat16, remat=remat, attend=SplashAttention(mesh_of(data=2), interpret=True)
    )
    tokens = jnp.zeros((2, 128), jnp.int32)
    params = jax.eval_shape(module.init, jax.random.key(0), tokens)["params"]
    program = jax.make_jaxpr(jax.grad(lambda p: module.apply({"params": p}, tokens, method="hidden").sum()))(params)
    assert str(program).count("pallas_call[") == kernels


def test_equal_meshes_share_a_compilation():
    assert SplashAttention(mesh_of(fsdp=2)) == SplashAttention(mesh_of(fsdp=2))
    assert hash(SplashAttention(mesh_of(fsdp=2))) == hash(SplashAttention(mesh_of(fsdp=2)))
