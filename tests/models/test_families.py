"""Every family beside transformers: logits, generation and export, of fixed and of random configurations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import traverse_util
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from jaxforget.lm.generate import generate
from jaxforget.models.adapters import AdapterFile, load_adapter, read_adapter, save_adapter, save_merged
from jaxforget.models.config import ModelConfig
from jaxforget.models.embedding import ShardedLookUp
from jaxforget.models.export import save_params
from jaxforget.models.families import FAMILIES
from jaxforget.models.folders import read_config
from jaxforget.models.layout import leaves, parameter_count
from jaxforget.models.load import load_params
from jaxforget.models.transformer import Transformer
from jaxforget.models.weights import adapter_shapes, apply_delta, int8_kernels, merged
from jaxforget.sharding import ActivationSharding, make_mesh, shard_params
from tests.models.family_cases import CASES, random_case, save_family
from tests.models.placing import shardings_of

LENGTH = 24  # beyond the windows of the cases
EVERY = [pytest.param(family, case, id=f"{family}-{n}") for family in CASES for n, case in enumerate(CASES[family])]


def tokens_for(vocabulary, length=LENGTH, rows=2):
    return np.random.default_rng(0).integers(0, vocabulary, (rows, length))


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.from_numpy(tokens)).logits.float().numpy()


def our_logits(folder):
    """Return configuration, parameters, tokens and logits of the model in `folder`."""
    config, raw = read_config(folder)
    params = load_params(folder, config, dtype="float32")
    tokens = tokens_for(config.vocab_size)
    return config, raw, params, tokens, jax.jit(Transformer(config).apply)({"params": params}, tokens)


def assert_near(found, expected):
    """Within 1e-4 of the largest logit."""
    assert found.dtype == jnp.float32
    size = np.abs(expected).max()
    assert size > 0.05
    assert np.abs(np.asarray(found) - expected).max() < 1e-4 * size


def test_every_family_has_cases():
    assert CASES.keys() == FAMILIES.keys()
    assert all(len(cases) >= 3 for cases in CASES.values())


@pytest.mark.parametrize(("family", "case"), EVERY)
def test_logits_equal_transformers_and_so_does_the_export(tmp_path, family, case):
    theirs = save_family(tmp_path / "theirs", family, case)
    config, raw, params, tokens, logits = our_logits(tmp_path / "theirs")
    assert_near(logits, their_logits(theirs, tokens))
    made = jax.eval_shape(Transformer(config).init, jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, made)
    assert parameter_count(config) == theirs.num_parameters()
    save_params(tmp_path / "ours", params, config, raw, None, dtype="float32", model_card="A test.")
    again, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values())
    assert type(again).__name__ == FAMILIES[family].architecture
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert_near(logits, their_logits(again, tokens))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", CASES)
def test_logits_of_random_configurations(tmp_path, family, seed):
    theirs = save_family(tmp_path, family, random_case(family, seed))
    *_, tokens, logits = our_logits(tmp_path)
    assert_near(logits, their_logits(theirs, tokens))


@pytest.mark.parametrize("family", CASES)
def test_greedy_text_past_the_window_equals_transformers(tmp_path, family):
    """40 tokens after prompts of different lengths; the first case of a family with windows has a short one."""
    theirs = save_family(tmp_path, family, CASES[family][0])
    config, _ = read_config(tmp_path)
    params = load_params(tmp_path, config, dtype="float32")
    prompts = [tokens_for(config.vocab_size, length, rows=1)[0].tolist() for length in (3, 11)]
    found = generate(Transformer(config), params, prompts, max_new_tokens=40)
    for prompt, new in zip(prompts, found, strict=True):
        assert len(new) == 40
        # Each new token is the likeliest one after those before it, and so is transformers' whole text, by induction.
        logits = their_logits(theirs, np.array([prompt + new[:-1]]))
        assert new == logits[0, len(prompt) - 1 :].argmax(-1).tolist()


@pytest.mark.parametrize("family", CASES)
def test_a_mesh_computes_what_one_device_does(tmp_path, family):
    """Parameters are loaded in slices, a fused tensor's too, and gradients follow."""
    save_family(tmp_path, family, CASES[family][0] | {"num_key_value_heads": 2, "vocab_size": 64})
    config, _, params, tokens, logits = our_logits(tmp_path)
    mesh = make_mesh(2, 2, 2, devices=jax.devices())
    placed = load_params(tmp_path, config, dtype="float32", shardings=shardings_of(config, mesh))
    jax.tree.map(np.testing.assert_array_equal, placed, params)
    weights = np.random.default_rng(1).standard_normal(logits.shape, np.float32)

    def total(params, module):
        return jnp.sum(module.apply({"params": params}, tokens) * weights)

    grad = jax.jit(jax.grad(total), static_argnums=1)
    sharded = Transformer(config, remat="full", constrain=ActivationSharding(mesh), look_up=ShardedLookUp(mesh))
    one, many = (jax.device_get(x) for x in (grad(params, Transformer(config)), grad(placed, sharded)))
    for name, expected in traverse_util.flatten_dict(one, sep="/").items():
        found = traverse_util.flatten_dict(many, sep="/")[name]
        assert np.abs(expected - found).max() < 1e-3 * np.abs(expected).max() + 1e-5, name


@pytest.mark.parametrize("family", CASES)
def test_layers_are_scanned_also_where_they_differ(tmp_path, family):
    save_family(tmp_path, family, CASES[family][0])
    config, _ = read_config(tmp_path)
    assert all(leaf.shape[0] == config.num_hidden_layers for leaf in leaves(config) if leaf.stacked)
    tokens = jnp.zeros((1, 8), jnp.int32)
    params = jax.eval_shape(Transformer(config).init, jax.random.key(0), tokens)["params"]
    deep = jax.make_jaxpr(lambda p: Transformer(config).apply({"params": p}, tokens, method="hidden"))(params)
    assert [equation.params["length"] for equation in deep.eqns if equation.primitive.name == "scan"] == [
        config.num_hidden_layers
    ]


@pytest.mark.parametrize("family", CASES)
def test_int8_and_adapters_compute_what_their_sum_does(tmp_path, family):
    save_family(tmp_path, family, CASES[family][0])
    config, _, params, tokens, _ = our_logits(tmp_path)
    adapter = random_adapter(config)
    tree = apply_delta(int8_kernels(params), adapter)
    module = Transformer(config)
    found, expected, base = (
        jax.jit(module.apply)({"params": p}, tokens) for p in (tree, merged(tree, jnp.float32), params)
    )
    size = float(np.abs(expected).max())
    assert np.abs(found - expected).max() < 1e-3 * size
    assert np.abs(base - expected).max() > 1e-2 * size


def test_an_adapter_of_fused_tensors_is_read_back_and_merged(tmp_path):
    """Phi-3's q, k and v are one module of an adapter's folder."""
    theirs = save_family(tmp_path / "base", "phi3", CASES["phi3"][1])
    config, raw, params, tokens, _ = our_logits(tmp_path / "base")
    adapter = random_adapter(config)
    whole = merged(apply_delta(params, adapter), jnp.float32)
    expected = jax.jit(Transformer(config).apply)({"params": whole}, tokens)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    tokenizer.save_pretrained(tmp_path / "base")
    save_adapter(tmp_path / "adapter", adapter, config, raw, tmp_path / "base", str(tmp_path / "base"), "A test.")
    found = read_adapter(tmp_path / "adapter")
    mesh = make_mesh(devices=jax.devices()[:1])
    shardings = shard_params(adapter_shapes(config, found.rank, 1.0), mesh)
    again = load_adapter(AdapterFile(found, config), config, dtype="float32", shardings=shardings)
    logits = jax.jit(Transformer(config).apply)({"params": apply_delta(params, again)}, tokens)
    assert_near(logits, np.asarray(expected))
    save_merged(
        *(tmp_path / "merged", found, tmp_path / "base", config, raw),
        **{"dtype": "float32", "max_shard_bytes": 10**9, "model_card": "A test."},
    )
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", attn_implementation="eager")
    assert_near(expected, their_logits(theirs, tokens))


def random_adapter(config):
    """Return an adapter of rank 2 beside every dense layer, not 0."""
    rng = np.random.default_rng(3)
    shapes = adapter_shapes(config, 2, 4.0)
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape, np.float32)), shapes)


def test_a_shape_is_hashable():
    raw = {"model_type": "gemma3_text", "num_hidden_layers": 7, "vocab_size": 9, "hidden_size": 8}
    config = ModelConfig.from_hf(raw | {"intermediate_size": 8, "num_attention_heads": 4, "head_dim": 2})
    hash(config)
    assert config.windows == (4096,) * 5 + (None, 4096)
    assert config.window_rope == (10_000.0, None)
