"""Adapters as PEFT writes them: settings that are understood, layers without factors, folders with leftovers."""

import json
import logging
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

import jaxforget
from jaxforget.errors import UserError
from jaxforget.models.adapters import CONFIG, WEIGHTS, AdapterFile, is_adapter, load_adapter, read_adapter, save_merged
from jaxforget.models.folders import read_config, resolve_base
from jaxforget.models.load import load_params
from jaxforget.models.transformer import Transformer
from jaxforget.models.weights import adapter_shapes, apply_delta
from jaxforget.sharding import make_mesh, shard_params
from tests.models.tiny import save_tiny

RANK = 4
# What PEFT writes with its defaults.
SETTINGS = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "base",
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.05,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "peft_version": "0.18.0",
    "qalora_group_size": 16,
    "r": RANK,
    "rank_pattern": {},
    "revision": None,
    "target_modules": ["q_proj", "v_proj"],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}


def write(folder, config, layers=(0, 1, 2), modules=("q_proj", "v_proj"), **settings):
    """Writes an adapter over the tiny model of shape `config`, factors at random."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(SETTINGS | settings))
    rng = np.random.default_rng(0)
    outputs = {"q_proj": config.num_attention_heads, "v_proj": config.num_key_value_heads}
    tensors = {}
    for layer in layers:
        for module in modules:
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = rng.standard_normal((RANK, config.hidden_size), np.float32)
            width = outputs[module] * config.head_dim
            tensors[f"{name}.lora_B.weight"] = rng.standard_normal((width, RANK), np.float32)
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)
    return tensors


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base beside which adapters are written; the working directory is theirs."""
    save_tiny(tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    return read_config(tmp_path / "base")[0]


def test_peft_defaults_are_understood(base, tmp_path):
    write(tmp_path / "a", base)
    adapter = read_adapter(tmp_path / "a")
    assert (adapter.rank, adapter.scale, adapter.base) == (RANK, 2.0, "base")
    AdapterFile(adapter, base)


@pytest.mark.parametrize("start", [True, False, None, "gaussian", "Gaussian", "eva", "orthogonal"])
def test_initialisations_that_keep_base(base, tmp_path, start):
    write(tmp_path / "a", base, init_lora_weights=start)
    AdapterFile(read_adapter(tmp_path / "a"), base)


@pytest.mark.parametrize(
    "settings",
    [
        *({"init_lora_weights": start} for start in ("pissa", "pissa_niter_16", "olora", "corda", "loftq", "lora_ga")),
        {"init_lora_weights": "invented tomorrow"},
        {"init_lora_weights": 1},
        {"use_dora": True},
        {"use_qalora": True},
        {"rank_pattern": {"q_proj": 8}},
        {"alpha_pattern": {"q_proj": 8}},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"target_parameters": ["x"]},
        {"layer_replication": [[0, 2]]},
        {"fan_in_fan_out": True},
        {"lora_bias": True},
        {"alora_invocation_tokens": [5]},
        {"bias": "all"},
        {"invented_tomorrow": 1},
    ],
)
def test_settings_that_are_not_known_to_be_harmless_are_refused(base, tmp_path, settings):
    write(tmp_path / "a", base, **settings)
    with pytest.raises(UserError, match=f"{CONFIG}: {next(iter(settings))} is .*merge the adapter") as caught:
        read_adapter(tmp_path / "a")
    assert "\n" not in str(caught.value)


def merged(tensors, config, scale, folder):
    """Logits of the base with the products added to its stored weights, by the whole-weights path."""
    weights = safetensors.numpy.load_file(folder / "base" / "model.safetensors")
    for name in [name for name in tensors if "lora_A" in name]:
        stored = name.removeprefix("base_model.model.").replace(".lora_A.weight", ".weight")
        weights[stored] = weights[stored] + scale * tensors[name.replace("lora_A", "lora_B")] @ tensors[name]
    shutil.copytree(folder / "base", folder / "sum")
    safetensors.numpy.save_file(weights, folder / "sum" / "model.safetensors", {"format": "pt"})
    return logits(folder / "sum")


def logits(folder, delta=None):

    config, _ = read_config(folder)
    params = apply_delta(load_params(folder, config, dtype="float32"), delta or {})
    return np.asarray(Transformer(config).apply({"params": params}, np.arange(16)[None]))


@pytest.mark.parametrize(
    ("layers", "settings"),
    [
        ((1,), {"layers_to_transform": [1]}),
        ((2,), {"layers_to_transform": 2}),
        ((0, 2), {"layers_to_transform": [0, 2]}),
        ((1,), {"target_modules": r"model\.layers\.1\.self_attn\.(q|v)_proj"}),
        ((1,), {"target_modules": ["layers.1.self_attn.q_proj", "model.layers.1.self_attn.v_proj"]}),
        ((0, 1), {"exclude_modules": ["layers.2.self_attn.q_proj", "layers.2.self_attn.v_proj"]}),
        ((0, 1, 2), {"target_modules": None}),
    ],
)
def test_layers_without_factors_are_base(base, tmp_path, layers, settings):

    tensors = write(tmp_path / "a", base, layers=layers, **settings)
    file = AdapterFile(read_adapter(tmp_path / "a"), base)
    shardings = shard_params(adapter_shapes(base, RANK, 1.0), make_mesh(devices=jax.devices()[:1]))
    delta = load_adapter(file, base, dtype="float32", shardings=shardings)
    expected = merged(tensors, base, 2.0, tmp_path)
    assert np.abs(expected - logits(tmp_path / "base")).max() > 0.1
    np.testing.assert_allclose(logits(tmp_path / "base", delta), expected, rtol=1e-4, atol=1e-4)
    raw = read_config(tmp_path / "base")[1]
    save_merged(
        tmp_path / "out",
        file.adapter,
        tmp_path / "base",
        base,
        raw,
        dtype="float32",
        max_shard_bytes=10**9,
        model_card="",
    )
    np.testing.assert_allclose(logits(tmp_path / "out"), expected, rtol=1e-4, atol=1e-4)
    jax.effects_barrier()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layers": (1,)}, "has no factors of model.layers.0.self_attn.q_proj"),
        ({"modules": ("q_proj",)}, "has no factors of model.layers.0.self_attn.v_proj"),
        ({"layers_to_transform": [1]}, "has factors of model.layers.0.self_attn.q_proj"),
        ({"exclude_modules": ["v_proj"]}, "has factors of model.layers.0.self_attn.v_proj"),
        ({"layers": ()}, "no factors"),
    ],
)
def test_factors_and_settings_that_disagree_are_refused(base, tmp_path, given, message):
    write(tmp_path / "a", base, **given)
    with pytest.raises(UserError, match=message):
        AdapterFile(read_adapter(tmp_path / "a"), base)


def test_half_of_a_pair_is_refused(base, tmp_path):
    tensors = write(tmp_path / "a", base)
    tensors.pop("base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight")
    safetensors.numpy.save_file(tensors, tmp_path / "a" / WEIGHTS)
    with pytest.raises(UserError, match="lora_B.weight is missing"):
        AdapterFile(read_adapter(tmp_path / "a"), base)


def test_a_factor_of_another_module_is_refused_with_advice(base, tmp_path):
    tensors = write(tmp_path / "a", base)
    tensors["base_model.model.lm_head.lora_A.weight"] = np.zeros((RANK, 64), np.float32)
    safetensors.numpy.save_file(tensors, tmp_path / "a" / WEIGHTS)
    with pytest.raises(UserError, match="lm_head.*merge the adapter"):
        AdapterFile(read_adapter(tmp_path / "a"), base)


@pytest.mark.parametrize("leftovers", [(CONFIG,), (CONFIG, WEIGHTS)])
@pytest.mark.parametrize("shard", ["5GB", "60KB"])
def test_whole_weights_beside_an_adapter_are_the_model(base, tmp_path, leftovers, shard):
    write(tmp_path / "a", base)
    save_tiny(tmp_path / "whole", shard=shard)
    expected = logits(tmp_path / "whole")
    for name in leftovers:
        shutil.copy(tmp_path / "a" / name, tmp_path / "whole" / name)
    assert not is_adapter(tmp_path / "whole")
    np.testing.assert_array_equal(logits(tmp_path / "whole"), expected)


def test_pickled_whole_weights_beside_an_adapter_are_refused(base, tmp_path):
    write(tmp_path / "a", base)
    (tmp_path / "a" / "training_args.bin").write_bytes(b"")  # what training leaves is no model
    assert is_adapter(tmp_path / "a")
    (tmp_path / "a" / "pytorch_model.bin").write_bytes(b"")
    shutil.copy(tmp_path / "base" / "config.json", tmp_path / "a")
    with pytest.raises(UserError, match="pickled weights"):
        logits(tmp_path / "a")


def test_ignored_adapter_files_are_mentioned(tiny_world, tmp_path, caplog):
    folder = shutil.copytree(tiny_world / "base", tmp_path / "model")
    (folder / CONFIG).write_text(json.dumps(SETTINGS))
    with caplog.at_level(logging.WARNING):
        jaxforget.load(folder)
    assert caplog.messages == [f"{folder}: holds whole weights, which are loaded; its adapter files are ignored"]


def test_a_base_that_is_not_there_is_named_with_its_setting(base, tmp_path):
    write(tmp_path / "a", base, base_model_name_or_path="/moved/away")
    for ask in (
        lambda: read_config(tmp_path / "a"),
        lambda: resolve_base(read_adapter(tmp_path / "a")),
        lambda: jaxforget.load(tmp_path / "a"),
    ):
        with pytest.raises(UserError, match=rf"{CONFIG}: base_model_name_or_path: /moved/away: .*base=") as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_the_revision_of_the_base_is_followed(base, tmp_path):
    write(tmp_path / "a", base, base_model_name_or_path="owner/name", revision="v2")
    assert read_adapter(tmp_path / "a").base == "owner/name@v2"
    write(tmp_path / "a", base, revision="main")
    assert read_adapter(tmp_path / "a").base == "base"  # a folder has no revisions
