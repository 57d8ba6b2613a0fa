"""The forward pass beside transformers': logits and every layer, over all the ways in which Llamas differ."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxforget.models import transformer
from jaxforget.models.config import ModelConfig
from jaxforget.models.folders import read_config
from jaxforget.models.layout import leaves, parameter_count
from jaxforget.models.load import load_params
from jaxforget.models.rope import Rope, rope_frequencies, rotate
from jaxforget.models.transformer import Transformer
from tests.models.tiny import LENGTH, SHAPES, save_tiny
from tests.train.tiny import PLAIN


def tokens_for(vocabulary, rows=2, length=LENGTH):
    return np.random.default_rng(0).integers(0, vocabulary, (rows, length))


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_layers_equal_transformers(tmp_path, shape):
    theirs = save_tiny(tmp_path, shape)
    config, _ = read_config(tmp_path)
    params = load_params(tmp_path, config, dtype="float32")
    tokens = tokens_for(config.vocab_size)
    outputs = []
    for layer in theirs.model.layers:
        layer.register_forward_hook(lambda module, given, made: outputs.append(made.detach().numpy()))
    with torch.no_grad():
        expected = theirs(torch.from_numpy(tokens)).logits.numpy()

    model = Transformer(config)
    forward = jax.jit(lambda params: model.apply({"params": params}, tokens, mutable=["intermediates"]))
    logits, kept = forward(params)

    assert logits.dtype == jnp.float32
    assert np.abs(expected).max() > 1  # else a tolerance of 1e-4 would show nothing
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)
    (layers,) = kept["intermediates"]["layers"]["output"]
    np.testing.assert_allclose(layers, np.stack(outputs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_layout_table_is_the_modules_own_tree(tmp_path, shape):
    theirs = save_tiny(tmp_path, shape)
    config, _ = read_config(tmp_path)
    made = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    flat = {"/".join(key.key for key in path): leaf.shape for path, leaf in jax.tree.leaves_with_path(made)}
    assert flat == {leaf.name: leaf.shape for leaf in leaves(config)}
    assert parameter_count(config) == theirs.num_parameters()


def test_a_seed_draws_the_weights_that_it_always_drew():
    """A model that is trained from scratch stays the same; an option of the scan over layers once changed the draws."""
    drawn = Transformer(PLAIN).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    layers = drawn["layers"]
    found = [
        drawn["embed"][0, 0],
        layers["q"]["kernel"][0, 0, 0],
        layers["down"]["kernel"][1, 2, 3],
        drawn["lm_head"][0, 0],
    ]
    np.testing.assert_allclose(found, [0.00152285, 0.02953878, -0.00659253, 0.01203511], rtol=1e-5)


@pytest.mark.parametrize("shape", ["grouped", "linear-rope", "llama3-rope"])
def test_rotary_frequencies_are_transformers_own(tmp_path, shape):
    theirs = save_tiny(tmp_path, shape)
    config, _ = read_config(tmp_path)
    expected = theirs.model.rotary_emb.inv_freq.numpy()
    ours = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=3e-7)  # two units in the last place


@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
@pytest.mark.parametrize("width", [24, 64, 128])
def test_rotary_frequencies_of_real_widths(theta, width):
    """Transformers' but for what its fp32 power function strays on this processor, and ours stray on none."""
    settings = transformers.LlamaConfig(
        hidden_size=width,
        num_attention_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
    )
    theirs = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(settings)
    config = ModelConfig.from_hf(settings.to_dict())
    ours = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
    np.testing.assert_allclose(ours, theirs.inv_freq.numpy(), rtol=3e-7)
    exponents = torch.arange(0, width, 2).float() / width
    np.testing.assert_array_equal(ours, (1 / (theta ** exponents.double()).float()).numpy())


def test_rematerialisation_changes_no_gradient(tmp_path):
    save_tiny(tmp_path)
    config, _ = read_config(tmp_path)
    params = load_params(tmp_path, config, dtype="float32")
    tokens = tokens_for(config.vocab_size, length=16)

    def gradient(mode):
        model = Transformer(config, remat=mode)
        return jax.jit(jax.grad(lambda p: jnp.square(model.apply({"params": p}, tokens)).mean()))(params)

    kept = gradient("none")
    for mode in ("full", "mlp", "dots"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), gradient(mode), kept)


@pytest.mark.parametrize(("mode", "again"), [("full", 8), ("mlp", 3), ("dots", 1), ("none", 0)])
def test_products_that_a_backward_pass_makes_again(mode, again, tmp_path):
    """All of a layer's nine but the last; two of the feed-forward part and attention's scores; the scores alone."""
    save_tiny(tmp_path)
    config, _ = read_config(tmp_path)
    params = load_params(tmp_path, config, dtype="float32")
    tokens = tokens_for(config.vocab_size, length=16)
    model = Transformer(config, remat=mode)
    run = jax.grad(lambda p: jnp.square(model.apply({"params": p}, tokens)).mean())
    products = str(jax.make_jaxpr(run)(params)).count("dot_general[")
    # Once forward and twice backward, of the head and of every product of the one layer in the loop; the gradients of
    # its seven kernels are written twice, for a CPU and for others.
    assert products == 3 * (1 + 9) + 7 + again


@pytest.mark.parametrize(("mode", "widths"), [("full", []), ("mlp", "qkvyo"), ("dots", "qkvyogu")])
@pytest.mark.parametrize("length", [16, 2048], ids=["few-scores", "many-scores"])
def test_what_a_backward_pass_finds_ready(mode, widths, length, tmp_path):
    """A backward pass keeps every layer's input, and the products that the mode names."""
    save_tiny(tmp_path, max_position_embeddings=2048)
    config, _ = read_config(tmp_path)
    params = load_params(tmp_path, config, dtype="float32")
    model = Transformer(config, remat=mode)
    queries, keys = (n * config.head_dim for n in (config.num_attention_heads, config.num_key_value_heads))
    width = {"q": queries, "k": keys, "v": keys, "y": queries, "o": config.hidden_size}
    width |= dict.fromkeys("gu", config.intermediate_size)
    tokens = tokens_for(config.vocab_size, rows=1, length=length)
    _, backward = jax.eval_shape(
        lambda p: jax.vjp(lambda p: model.apply({"params": p}, tokens, method="hidden"), p), params
    )
    layers = config.num_hidden_layers
    kept = [
        leaf.size // layers // length for leaf in jax.tree.leaves(backward) if leaf.shape[:3] == (layers, 1, length)
    ]
    assert sorted(kept) == sorted([config.hidden_size, *(width[name] for name in widths)])


def test_right_padding_changes_nothing_before_it(tmp_path):
    save_tiny(tmp_path)
    config, _ = read_config(tmp_path)
    model, params = Transformer(config), load_params(tmp_path, config, dtype="float32")
    forward = jax.jit(lambda tokens: model.apply({"params": params}, tokens))
    tokens = tokens_for(config.vocab_size, length=20)
    other = tokens.copy()
    other[:, 12:] = 5
    np.testing.assert_array_equal(forward(tokens)[:, :12], forward(other)[:, :12])


def test_bfloat16_products_still_give_float32_logits(tmp_path):
    save_tiny(tmp_path)
    config, _ = read_config(tmp_path)
    params = load_params(tmp_path, config, dtype="bfloat16")
    tokens = tokens_for(config.vocab_size, length=16)
    exact, rough = (
        jax.jit(Transformer(config, dtype=dtype).apply)({"params": params}, tokens)
        for dtype in (jnp.float32, jnp.bfloat16)
    )
    assert rough.dtype == jnp.float32
    assert len(np.unique(rough)) > 0.9 * rough.size  # rounded to bfloat16, many of them would be equal
    np.testing.assert_allclose(rough, exact, atol=0.2 * float(np.abs(exact).max()))


@pytest.mark.parametrize("small", [0, 2**26], ids=["in-parts", "at-once"])
def test_the_gated_product_has_the_gradients_of_silu(small, monkeypatch):
    monkeypatch.setattr(transformer, "SMALL", small)
    rng = np.random.default_rng(0)
    gate, up, weight = (rng.standard_normal((2, 8, 5), np.float32) for _ in range(3))

    def run(function):
        return jax.jit(jax.grad(lambda *x: jnp.sum(function(*x) * weight), (0, 1)))(gate, up)

    program = (
        jax.jit(jax.grad(lambda *x: jnp.sum(transformer.gated(*x, "silu")), (0, 1))).lower(gate, up).compile().as_text()
    )
    assert (" while(" in program) == (small == 0)
    for found, expected in zip(
        run(lambda *x: transformer.gated(*x, "silu")), run(lambda gate, up: jax.nn.silu(gate) * up), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_query_is_scaled_before_it_is_rounded():
    """Heads of 128, whose scale is no power of two: attention gets the fp32 product of both, rounded to bf16 once."""
    config = ModelConfig.from_hf(
        {"model_type": "llama", "vocab_size": 32, "hidden_size": 128, "intermediate_size": 32, "num_hidden_layers": 1}
        | {"num_attention_heads": 1, "max_position_embeddings": 64}
    )
    seen = []

    def attend(query, key, value, positions, scope, layer):
        seen.append((query, key))
        return value

    module = transformer.Transformer(config, dtype=jnp.bfloat16, attend=attend, unroll=1)
    params = module.init(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    # Queries and keys alike, so that the one tells what the other was before its scale.
    params["layers"]["q"]["kernel"] = params["layers"]["k"]["kernel"]
    seen.clear()
    with jax.disable_jit():
        module.apply({"params": params}, jnp.arange(32)[None], method="hidden")
    query, key = seen[-1]
    assert query.dtype == jnp.bfloat16
    twice = key * jnp.bfloat16(128**-0.5)
    assert 0 < np.abs(query - twice).max() <= 2**-7 * np.abs(query).max()
    angles = jnp.arange(32.0)[None, :, None, None] * rope_frequencies(128, config.rope_theta, None)
    one = jnp.ones((1, 32, 1, 128), jnp.bfloat16)
    rope = Rope.from_angles(angles, 128**-0.5)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    exact = jnp.concatenate([cos - sin, cos + sin], axis=-1) * 128**-0.5
    np.testing.assert_array_equal(rotate(one, *rope.query, rope.scale), exact.astype(jnp.bfloat16))
