"""Every form of a weight beside the whole weight that it stands for: outputs, gradients, shards."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.models.transformer import Transformer
from jaxforget.models.weights import (
    Int8,
    LoRA,
    adapter_shapes,
    apply_delta,
    dense_kernels,
    dequantise,
    difference,
    init_adapter,
    merged,
    product,
    quantise,
)
from jaxforget.sharding import ActivationSharding, make_mesh, shard_params
from tests.train.tiny import PLAIN, TIED, VOCABULARY, llama_params, mesh_of, near

BIASED = dataclasses.replace(TIED, attention_bias=True, mlp_bias=True)
RANK, ALPHA = 4, 12.0
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (8, 12), np.int32)


def logits(config, params, dtype=jnp.float32):
    return np.asarray(jax.jit(Transformer(config, dtype=dtype).apply)({"params": params}, TOKENS))


def trained_adapter(config, seed=1):
    """An adapter whose product is not 0: a fifth of the size of the kernels themselves."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda s: 0.1 * rng.standard_normal(s.shape, np.float32), adapter_shapes(config, RANK, ALPHA))


def with_kernels(params, change):
    """`params` with `change(name, layer)` in place of every dense layer's kernel."""
    layers = {
        name: {**layer, "kernel": change(name, layer["kernel"])} if "kernel" in layer else layer
        for name, layer in params["layers"].items()
    }
    return {**params, "layers": layers}


def multiplied(params, adapter):
    """Whole weights that compute what base and adapter do."""

    def change(name, kernel):
        lora = adapter["layers"][name]["lora"]
        return kernel + ALPHA / RANK * jnp.einsum("lir,lro->lio", lora.a, lora.b, precision="highest")

    return with_kernels(params, change)


def test_adapters_stand_beside_every_dense_layer():
    assert set(dense_kernels(PLAIN)) == {"q", "k", "v", "o", "gate", "up", "down"}
    shapes = adapter_shapes(PLAIN, RANK, ALPHA)["layers"]
    for name, leaf in dense_kernels(PLAIN).items():
        depth, inputs, outputs = leaf.shape
        lora = shapes[name]["lora"]
        assert (lora.a.shape, lora.b.shape, lora.scale) == ((depth, inputs, RANK), (depth, RANK, outputs), 3.0)


@pytest.mark.parametrize("config", [PLAIN, BIASED], ids=["plain", "tied, biased"])
def test_an_adapter_equals_the_weights_it_is_merged_into(config):
    base, adapter = llama_params(config, 0), trained_adapter(config)
    expected = logits(config, multiplied(base, adapter))
    assert np.abs(expected - logits(config, base)).max() > 0.1
    np.testing.assert_allclose(
        logits(config, apply_delta(base, adapter)), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max()
    )


def test_an_adapters_gradient_is_that_through_merged_weights():
    base, adapter = llama_params(PLAIN, 0), trained_adapter(PLAIN)

    def gradient(join):
        def loss(adapter):
            logp = jax.nn.log_softmax(Transformer(PLAIN, remat="full").apply({"params": join(base, adapter)}, TOKENS))
            return -jnp.mean(jnp.take_along_axis(logp[:, :-1], TOKENS[:, 1:, None], axis=-1))

        return jax.jit(jax.grad(loss))(adapter)

    for ours, expected in zip(*map(jax.tree.leaves, (gradient(apply_delta), gradient(multiplied))), strict=True):
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_fresh_adapter_is_base_exactly(dtype):
    base = llama_params(PLAIN, 0)
    shapes = adapter_shapes(PLAIN, RANK, ALPHA)
    fresh = init_adapter(shapes, shard_params(shapes, mesh_of()), seed=3)
    assert all(np.abs(layer["lora"].a).min(axis=(1, 2)).max() > 0 for layer in fresh["layers"].values())
    np.testing.assert_array_equal(logits(PLAIN, apply_delta(base, fresh), dtype), logits(PLAIN, base, dtype))


def test_a_fresh_adapter_is_the_same_on_any_devices():
    shapes = adapter_shapes(PLAIN, RANK, ALPHA)
    one, many, other = (
        init_adapter(shapes, shard_params(shapes, mesh), seed=seed)
        for mesh, seed in ((mesh_of(), 3), (make_mesh(2, 2, 2), 3), (mesh_of(), 4))
    )
    jax.tree.map(np.testing.assert_array_equal, one, many)
    assert not np.array_equal(one["layers"]["q"]["lora"].a, other["layers"]["q"]["lora"].a)


def test_int8_is_off_by_half_a_level_at_most():
    kernel = np.random.default_rng(0).standard_normal((3, 40, 8), np.float32)
    kernel[0, :, 2] = 0  # a dead channel
    kernel[:, :, 5] *= 1000  # a loud one, which must not coarsen the others
    held = quantise(kernel)
    assert (held.values.dtype, held.scale.dtype) == (jnp.int8, jnp.float32)
    level = np.abs(kernel).max(axis=1, keepdims=True) / 127
    assert (np.abs(dequantise(held) - kernel) <= level / 2 * 1.0001).all()
    np.testing.assert_array_equal(np.abs(held.values).max(axis=1), np.where(level[:, 0] > 0, 127, 0))


@pytest.mark.parametrize("adapted", [False, True], ids=["alone", "with an adapter"])
def test_an_int8_kernel_computes_what_its_dequantised_one_does(adapted):
    base = llama_params(BIASED, 0)
    held = with_kernels(base, lambda name, kernel: quantise(kernel))
    plain = with_kernels(held, lambda name, kernel: dequantise(kernel))
    if adapted:
        held, plain = apply_delta(held, trained_adapter(BIASED)), multiplied(plain, trained_adapter(BIASED))
    expected = logits(BIASED, plain)
    np.testing.assert_allclose(logits(BIASED, held), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("held", [lambda kernel: kernel, quantise, lambda k: k.astype(jnp.bfloat16)])
def test_a_difference_is_of_what_is_held(held):
    """Whatever rounding base's kernels lost, base and difference give the other model's to 1/127 of the difference."""
    whole = llama_params(PLAIN, 0)
    other = near(whole, 1, scale=0.01)
    base = with_kernels(whole, lambda name, kernel: held(kernel))
    layers = {
        name: {"delta": difference(base["layers"][name]["kernel"], other["layers"][name]["kernel"])}
        for name in dense_kernels(PLAIN)
    }
    exact = {name: part for name, part in other.items() if name != "layers"}
    norms = {name: part for name, part in other["layers"].items() if name not in layers}
    own = {**exact, "layers": {**norms, **layers}}
    expected = logits(PLAIN, other)
    apart = np.abs(expected - logits(PLAIN, base)).max()
    assert np.abs(logits(PLAIN, apply_delta(base, own)) - expected).max() < 0.05 * apart


def test_over_shares_what_is_not_a_models_own():
    base = llama_params(BIASED, 0)
    adapter = trained_adapter(BIASED)
    both = apply_delta(base, adapter)
    assert both["embed"] is base["embed"]
    assert both["layers"]["q"]["kernel"] is base["layers"]["q"]["kernel"]
    assert both["layers"]["q"]["lora"] is adapter["layers"]["q"]["lora"]
    # A whole model over anything, or over nothing, is itself: no scale of base's int8 stays beside its kernel.
    other = llama_params(BIASED, 1)
    for under in (None, base, apply_delta(with_kernels(base, lambda name, kernel: quantise(kernel)), adapter)):
        assert jax.tree.structure(apply_delta(under, other)) == jax.tree.structure(other)
        jax.tree.map(np.testing.assert_array_equal, apply_delta(under, other), other)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_every_form_is_sharded_and_computes_as_on_one_device(sizes):
    mesh = make_mesh(*sizes)
    base = with_kernels(llama_params(PLAIN, 0), lambda name, kernel: quantise(kernel))
    whole = apply_delta(base, trained_adapter(PLAIN))
    delta = quantise(0.1 * llama_params(PLAIN, 2)["layers"]["up"]["kernel"])
    whole = apply_delta(whole, {"layers": {"up": {"delta": delta}}})
    placed = jax.device_put(whole, shard_params(whole, mesh))
    fsdp = sizes[1]
    lora = placed["layers"]["down"]["lora"]
    assert lora.b.sharding.shard_shape(lora.b.shape)[2] == PLAIN.hidden_size // (
        fsdp if PLAIN.hidden_size % fsdp == 0 else 1
    )
    values = placed["layers"]["gate"]["kernel"].values
    assert values.sharding.shard_shape(values.shape)[2] == PLAIN.intermediate_size // sizes[2]
    module = Transformer(PLAIN, constrain=ActivationSharding(mesh))
    found = jax.jit(module.apply)({"params": placed}, TOKENS)
    expected = logits(PLAIN, whole)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_forms_are_plain_trees():
    lora = LoRA(np.zeros((2, 3)), np.zeros((3, 4)), 2.0)
    assert jax.tree.leaves(jax.tree.map(np.ones_like, lora))[0].sum() == 6
    assert jax.tree.map(np.ones_like, lora).scale == 2.0  # no number to train
    assert len(jax.tree.leaves(Int8(np.zeros((2, 3), np.int8), np.ones((1, 3))))) == 2


@pytest.mark.parametrize("config", [PLAIN, BIASED], ids=["plain", "tied, biased"])
def test_every_form_summed_up_is_the_model_that_it_stands_for(config):
    base = llama_params(config, 0)
    held = apply_delta(with_kernels(base, lambda name, kernel: quantise(kernel)), trained_adapter(config))
    held = apply_delta(
        held, {"layers": {"up": {"delta": quantise(0.1 * llama_params(config, 2)["layers"]["up"]["kernel"])}}}
    )
    found = merged(held, jnp.float32)
    assert jax.tree.structure(found) == jax.tree.structure(base)
    expected = logits(config, held)
    np.testing.assert_allclose(logits(config, found), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    jax.tree.map(np.testing.assert_array_equal, merged(base, jnp.bfloat16), base)  # whole already: no bit changes


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 4), (4, 3)], ids=["widens", "narrows"])
def test_a_product_has_the_gradients_of_a_dot(inputs, outputs):
    rng = np.random.default_rng(0)
    shapes = ((2, 5, inputs), (inputs, outputs), (2, 5, outputs))
    x, kernel, weight = (rng.standard_normal(shape, np.float32) for shape in shapes)

    def run(function):
        return jax.jit(jax.value_and_grad(lambda *a: jnp.sum(function(*a) * weight), (0, 1)))(x, kernel)

    for found, expected in zip(jax.tree.leaves(run(product)), jax.tree.leaves(run(jnp.dot)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
