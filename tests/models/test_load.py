"""Weights in: values, slices per device, memory, and every fault that a folder can have."""

import json
import shutil
import tracemalloc

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from flax import traverse_util

from jaxforget import sharding
from jaxforget.errors import UserError
from jaxforget.models.folders import read_config
from jaxforget.models.load import INDEX, Checkpoint, float_dtype, load_params
from tests.models.placing import shardings_of
from tests.models.tiny import SHAPES, save_tiny


def flat(params):
    return traverse_util.flatten_dict(params, sep="/")


def load(folder, dtype="float32", mesh=None):
    config, _ = read_config(folder)
    return load_params(folder, config, dtype=dtype, shardings=mesh and shardings_of(config, mesh))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """A folder of several shards with their index."""
    folder = tmp_path_factory.mktemp("shards")
    save_tiny(folder, shard="100KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.fixture
def single(tmp_path):
    """A folder of one file, to be spoilt."""
    save_tiny(tmp_path)
    return tmp_path


def test_kernels_are_stacked_and_turned(tmp_path):
    theirs = save_tiny(tmp_path, "biases-odd-vocabulary").state_dict()
    ours = flat(load(tmp_path))
    for layer in range(3):
        kernel = theirs[f"model.layers.{layer}.mlp.down_proj.weight"].numpy()
        np.testing.assert_array_equal(ours["layers/down/kernel"][layer], kernel.T)
        bias = theirs[f"model.layers.{layer}.self_attn.k_proj.bias"].numpy()
        np.testing.assert_array_equal(ours["layers/k/bias"][layer], bias)
    np.testing.assert_array_equal(ours["embed"], theirs["model.embed_tokens.weight"].numpy())
    np.testing.assert_array_equal(ours["lm_head"], theirs["lm_head.weight"].numpy().T)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", ["float32", "float16", "bfloat16"])
def test_dtypes_convert_as_torch_does(tmp_path, stored, wanted):
    theirs = save_tiny(tmp_path, "one-key-head").to(stored)
    theirs.save_pretrained(tmp_path)
    ours = flat(load(tmp_path, wanted))
    expected = theirs.model.layers[0].mlp.up_proj.weight.to(getattr(torch, wanted)).float().detach().numpy()
    assert {str(leaf.dtype) for leaf in ours.values()} == {wanted}
    np.testing.assert_array_equal(np.asarray(ours["layers/up/kernel"][0], np.float32), expected.T)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (1, 1, 8), (2, 2, 2), (8, 1, 1)])
@pytest.mark.parametrize("shape", ["grouped", "biases-odd-vocabulary"])
def test_a_mesh_gets_the_same_values(tmp_path, shape, sizes):
    save_tiny(tmp_path, shape, shard="100KB")
    mesh = sharding.make_mesh(*sizes)
    whole, split = load(tmp_path), load(tmp_path, mesh=mesh)
    config, _ = read_config(tmp_path)
    assert jax.tree.map(lambda leaf: leaf.sharding, split) == shardings_of(config, mesh)
    jax.tree.map(np.testing.assert_array_equal, whole, split)


def watch_reads(monkeypatch):
    """Every (tensor, stored region, bytes) that is read from now on."""
    reads = []
    original = Checkpoint.read_into

    def read_into(self, out, tensor, region, transposed):
        reads.append((tensor, region, out.nbytes))
        original(self, out, tensor, region, transposed)

    monkeypatch.setattr(Checkpoint, "read_into", read_into)
    return reads


def test_eight_devices_read_the_model_once_between_them(shards, monkeypatch):
    reads = watch_reads(monkeypatch)
    params = flat(load(shards, mesh=sharding.make_mesh(fsdp=4, tensor=2)))
    assert sum(size for *_, size in reads) == sum(leaf.nbytes for leaf in params.values())
    # gate [D=64, F=112] over fsdp 4, tensor 2: stored [F, D], so regions of 56 rows and 16 columns.
    regions = {region for tensor, region, _ in map(as_bounds, reads) if tensor == "model.layers.1.mlp.gate_proj.weight"}
    assert regions == {((r, r + 56), (c, c + 16)) for r in (0, 56) for c in (0, 16, 32, 48)}


def as_bounds(read):
    tensor, region, size = read
    return tensor, tuple((part.start, part.stop) for part in region), size


def test_a_replicated_slice_is_read_once(shards, monkeypatch):
    reads = watch_reads(monkeypatch)
    params = flat(load(shards, mesh=sharding.make_mesh(data=8, fsdp=1)))
    assert sum(size for *_, size in reads) == sum(leaf.nbytes for leaf in params.values())


def test_devices_of_another_process_cost_no_reads(shards, monkeypatch):
    """The slices of two devices in eight: what a process of a pod that owns those two reads."""
    reads = watch_reads(monkeypatch)
    mesh = sharding.make_mesh(fsdp=8)
    mine = set(mesh.devices.flat[:2])
    real = jax.sharding.NamedSharding.addressable_devices_indices_map

    def only_mine(self, shape):
        return {device: index for device, index in real(self, shape).items() if device in mine}

    monkeypatch.setattr(jax.sharding.NamedSharding, "addressable_devices_indices_map", only_mine)
    monkeypatch.setattr(jax, "make_array_from_single_device_arrays", lambda shape, placed, arrays: arrays)
    config, _ = read_config(shards)
    made = load_params(shards, config, dtype="float32", shardings=shardings_of(config, mesh))
    held = sum(array.nbytes for arrays in flat(made).values() for array in {id(a): a for a in arrays}.values())
    split = sum(size for tensor, _, size in reads if "norm" not in tensor)
    whole = sum(np.prod(tensor.shape) * 4 for tensor in safetensors_shapes(shards) if len(tensor.shape) == 2)
    assert split == whole // 4
    assert held < 0.3 * whole


def safetensors_shapes(folder):
    checkpoint = Checkpoint(folder)
    return [file.tensors[name] for name, file in checkpoint.files.items()]


def test_the_host_holds_the_weights_once(tmp_path):
    save_tiny(tmp_path, hidden_size=512, intermediate_size=1024, num_hidden_layers=6, shard="20MB")
    size = sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
    config, _ = read_config(tmp_path)
    tracemalloc.start()
    params = jax.block_until_ready(load_params(tmp_path, config, dtype="float32"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 40e6
    assert peak < size + 3e6
    del params


def test_loaded_weights_may_be_donated(shards):
    """On CPU they are the reader's own buffers: giving them away must not corrupt anything."""
    params, again = load(shards), load(shards)
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 2, tree), donate_argnums=0)(params)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, 2 * np.asarray(b)), doubled, again)


def test_harmless_extras_are_passed_over(single):
    rewrite(single, lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})
    load(single)


def test_a_stored_head_of_a_tied_model_is_passed_over(tmp_path):
    save_tiny(tmp_path, "tied")
    rewrite(tmp_path, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()})
    assert "lm_head" not in load(tmp_path)


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = change(safetensors.torch.load_file(path))
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


def without(name):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def fault(folder):
    with pytest.raises(UserError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(DOWN), f"tensor {DOWN} is missing"),
        (without("lm_head.weight"), "set tie_word_embeddings"),
        (
            lambda t: t | {DOWN: torch.zeros(64, 111)},
            f"{DOWN} has shape [64, 111], config.json makes it [64, 112]",
        ),
        (lambda t: t | {DOWN: t[DOWN].to(torch.int8)}, f"{DOWN} is I8"),
        (lambda t: t | {DOWN: t[DOWN].to(torch.float8_e4m3fn)}, f"{DOWN} is F8_E4M3"),
        (lambda t: t | {"model.layers.7.x": torch.zeros(1)}, "tensor model.layers.7.x is not part"),
        (lambda t: t | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}, "attention_bias"),
    ],
)
def test_a_tensor_at_fault_is_named(single, change, said):
    rewrite(single, change)
    assert said in fault(single)


def test_a_tied_model_needs_its_embedding(tmp_path):
    save_tiny(tmp_path, "tied")
    rewrite(tmp_path, without("model.embed_tokens.weight"))
    assert "tensor model.embed_tokens.weight is missing" in fault(tmp_path)


def test_a_truncated_file_is_named(single):
    path = single / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert f"{path}: truncated" in fault(single)


def test_pickled_weights_are_refused(single):
    (single / "model.safetensors").unlink()
    (single / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    said = fault(single)
    assert "pytorch_model.bin" in said
    assert "run code" in said


def test_no_weights_at_all(single):
    (single / "model.safetensors").unlink()
    assert "no *.safetensors" in fault(single)


@pytest.fixture
def broken(shards, tmp_path):
    """A copy of the several shards, to be spoilt, with its index."""
    folder = tmp_path / "broken"
    shutil.copytree(shards, folder)
    return folder, json.loads((folder / INDEX).read_text())


def test_a_missing_shard_is_named(broken):
    folder, index = broken
    shard = index["weight_map"][DOWN]
    (folder / shard).unlink()
    assert f"{folder / shard}: listed in {INDEX} but missing" in fault(folder)


def test_a_missing_index_is_named(broken):
    folder, _ = broken
    (folder / INDEX).unlink()
    assert f"no {INDEX}" in fault(folder)


def test_an_index_that_promises_too_much_is_named(broken):
    folder, index = broken
    others = sorted(set(index["weight_map"].values()) - {index["weight_map"][DOWN]})
    index["weight_map"][DOWN] = others[0]
    (folder / INDEX).write_text(json.dumps(index))
    assert f"{folder / others[0]}: lacks tensor {DOWN}" in fault(folder)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/a", "", ["a"], "a" * 5000])
def test_an_index_that_names_no_file_beside_it(broken, shard):
    folder, _ = broken
    (folder / INDEX).write_text(json.dumps({"weight_map": {DOWN: shard}}))
    assert "no name of a file beside it" in fault(folder)
    assert len(fault(folder)) < 400 + len(str(folder))


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": {}}'])
def test_an_empty_index_is_named(broken, content):
    folder, _ = broken
    (folder / INDEX).write_text(content)
    assert "no weight_map" in fault(folder)


def test_a_torn_index_is_named_with_its_line(broken):
    folder, _ = broken
    (folder / INDEX).write_text('{"weight_map": {')
    assert "line 1" in fault(folder)


def test_an_odd_dtype_is_refused(single):
    config, _ = read_config(single)
    with pytest.raises(UserError, match="'int8'"):
        load_params(single, config, dtype="int8")


def test_dtypes_by_name_and_by_type():
    assert float_dtype("bfloat16") == float_dtype(jax.numpy.bfloat16) == np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_loads_from_many_shards_as_from_one(tmp_path, shape):
    save_tiny(tmp_path / "one", shape)
    save_tiny(tmp_path / "many", shape, shard="60KB")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path / "one"), load(tmp_path / "many"))
