"""Weights out: what transformers makes of the folder, and what is left when writing fails."""

import json
import weakref

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict

from jaxforget import sharding
from jaxforget.errors import UserError
from jaxforget.lm import forward
from jaxforget.models import export as models_export
from jaxforget.models.config import ModelConfig
from jaxforget.models.export import config_to_hf, save_params
from jaxforget.models.folders import read_config
from jaxforget.models.load import INDEX, load_params
from jaxforget.models.safetensors_io import MappedFile
from tests.models.placing import shardings_of
from tests.models.tiny import LENGTH, SHAPES, save_tiny


def export(source, target, *, dtype="float32", mesh=None, raw=True, tokenizer=None, **more):
    config, original = read_config(source)
    params = load_params(source, config, dtype="float32", shardings=mesh and shardings_of(config, mesh))
    save_params(
        target, params, config, original if raw else None, tokenizer, dtype=dtype, model_card="# Card\n", **more
    )


def logits(model):
    tokens = torch.arange(LENGTH)[None] % model.config.vocab_size
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("raw", [True, False], ids=["kept-config", "made-config"])
@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_gives_equal_logits(tmp_path, shape, raw):
    theirs = save_tiny(tmp_path / "in", shape)
    export(tmp_path / "in", tmp_path / "out", raw=raw, max_shard_bytes=100_000)
    again, told = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values())
    torch.testing.assert_close(logits(again), logits(theirs), rtol=0, atol=0)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2)])
def test_a_mesh_writes_the_same_bytes(tmp_path, sizes):
    save_tiny(tmp_path / "in")
    export(tmp_path / "in", tmp_path / "one")
    export(tmp_path / "in", tmp_path / "split", mesh=sharding.make_mesh(*sizes))
    name = "model.safetensors"
    assert (tmp_path / "split" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


@pytest.mark.parametrize("sizes", [None, (1, 2, 4)], ids=["one device", "a mesh"])
def test_threads_ahead_of_the_file_write_what_each_in_turn_would(tmp_path, monkeypatch, sizes):
    config = ModelConfig(700, 384, 520, 3, 4, 2, 96)
    rng = np.random.default_rng(0)
    shardings = None if sizes is None else shardings_of(config, sharding.make_mesh(*sizes))
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), forward.param_shapes(config, np.float32)
    )
    placed = jax.device_put(params, shardings)
    monkeypatch.setattr(models_export, "CHUNK", 70_000)  # several runs of rows a tensor, the last one short
    monkeypatch.setattr(models_export, "AHEAD", 1_500_000)  # some tensors at once, the embedding by itself
    save_params(tmp_path, placed, config, None, None, dtype="bfloat16", max_shard_bytes=3_000_000, model_card="")
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    flat = flatten_dict(params, sep="/")
    for name, (leaf,), layer in models_export.export_order(config):
        mine = flat[leaf.name] if layer is None else flat[leaf.name][layer]
        wanted = (mine.T if leaf.transposed else mine).astype(ml_dtypes.bfloat16)
        file = MappedFile(tmp_path / json.loads((tmp_path / INDEX).read_text())["weight_map"][name])
        assert file.view(name).tobytes() == np.ascontiguousarray(wanted).tobytes(), name


def test_what_a_thread_cannot_do_is_raised(tmp_path, monkeypatch):
    save_tiny(tmp_path / "in")

    def fail(*given, **named):
        raise MemoryError("no room")

    monkeypatch.setattr(models_export, "copy_cast", fail)
    with pytest.raises(MemoryError, match="no room"):
        export(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_no_more_is_held_than_may_be_ahead(tmp_path, monkeypatch):
    """Count the tensors that are made but not yet written, for a model of many equal tensors."""
    save_tiny(tmp_path / "in")
    config, original = read_config(tmp_path / "in")
    largest = max(np.prod(parts[0].stored_shape) for _, parts, _ in models_export.export_order(config)) * 4
    params = load_params(tmp_path / "in", config, dtype="float32")
    held, most = set(), []
    make = models_export._make

    def counted(*given):
        out, jobs = make(*given)
        held.add(id(out))
        sizes[id(out)] = out.nbytes
        weakref.finalize(out, held.discard, id(out))
        most.append(sum(sizes[number] for number in held))
        return out, jobs

    sizes: dict[int, int] = {}
    monkeypatch.setattr(models_export, "_make", counted)
    monkeypatch.setattr(models_export, "AHEAD", 2 * largest)
    save_params(tmp_path / "out", params, config, original, None, dtype="float32", model_card="")
    assert largest < max(most) <= 3 * largest  # and the one that is being written


def test_shards_keep_to_their_size_and_the_index_adds_up(tmp_path):
    theirs = save_tiny(tmp_path / "in")
    export(tmp_path / "in", tmp_path / "out", max_shard_bytes=100_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    index = json.loads((tmp_path / "out" / INDEX).read_text())
    assert [file.name for file in files] == [
        f"model-{n:05d}-of-{len(files):05d}.safetensors" for n in range(1, len(files) + 1)
    ]
    assert len(files) > 2
    assert max(file.stat().st_size for file in files) < 105_000  # the header comes on top
    assert index["metadata"]["total_size"] == 4 * theirs.num_parameters()
    assert set(index["weight_map"]) == set(theirs.state_dict())
    assert set(index["weight_map"].values()) == {file.name for file in files}


def test_a_tensor_larger_than_a_shard_stands_alone(tmp_path):
    save_tiny(tmp_path / "in")
    export(tmp_path / "in", tmp_path / "out", max_shard_bytes=10)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3 * 9 + 3


def test_a_narrower_dtype_is_stored_and_declared(tmp_path):
    theirs = save_tiny(tmp_path / "in")
    export(tmp_path / "in", tmp_path / "out", dtype="bfloat16")
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert again.dtype == torch.bfloat16
    expected = theirs.to(torch.bfloat16).state_dict()
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_the_original_config_survives_and_the_papers_come_along(tmp_path):
    save_tiny(tmp_path / "in")
    path = tmp_path / "in" / "config.json"
    original = json.loads(path.read_text()) | {"some_note": [1, 2], "torch_dtype": "float16"}
    original.pop("dtype", None)
    path.write_text(json.dumps(original))
    (tmp_path / "in" / "tokenizer.json").write_text("{}")
    (tmp_path / "in" / "tokenizer.model").write_bytes(b"\0\1")
    (tmp_path / "in" / "LICENSE.txt").write_text("terms")
    (tmp_path / "in" / "generation_config.json").write_text('{"temperature": 0.6}')
    export(tmp_path / "in", tmp_path / "out", tokenizer=tmp_path / "in")
    out = tmp_path / "out"
    assert json.loads((out / "config.json").read_text()) == original | {"torch_dtype": "float32"}
    assert (out / "tokenizer.model").read_bytes() == b"\0\1"
    assert (out / "LICENSE.txt").read_text() == "terms"
    assert json.loads((out / "generation_config.json").read_text()) == {"temperature": 0.6}
    assert (out / "README.md").read_text() == "# Card\n"


@pytest.mark.parametrize("shape", SHAPES)
def test_a_made_config_is_read_back_as_itself(tmp_path, shape):
    save_tiny(tmp_path, shape)
    config, _ = read_config(tmp_path)
    assert ModelConfig.from_hf(config_to_hf(config)) == config


def test_a_folder_is_replaced_whole(tmp_path):
    save_tiny(tmp_path / "in")
    export(tmp_path / "in", tmp_path / "out", max_shard_bytes=100_000)
    export(tmp_path / "in", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("*.safetensors*")] == ["model.safetensors"]


def test_a_failure_leaves_the_old_folder(tmp_path):
    save_tiny(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("")

    class Unwritable:
        def save_pretrained(self, folder):
            raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=f"{out}: cannot be written: No space left") as caught:
        export(tmp_path / "in", out, tokenizer=Unwritable())
    assert "\n" not in str(caught.value)
    assert [path.name for path in out.iterdir()] == ["old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_a_tokenizer_folder_that_is_not_there(tmp_path):
    save_tiny(tmp_path / "in")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        export(tmp_path / "in", tmp_path / "out", tokenizer=tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()


def test_parameters_of_another_shape_are_a_programming_error(tmp_path):
    save_tiny(tmp_path)
    config, raw = read_config(tmp_path)
    params = load_params(tmp_path, config, dtype="float32")
    wrong = params | {"embed": np.zeros((3, 4), np.float32)}
    with pytest.raises(ValueError, match="parameter embed must be"):
        save_params(tmp_path / "out", wrong, config, raw, None, dtype="float32", model_card="")
    other = raw | {"num_hidden_layers": 7}
    with pytest.raises(ValueError, match="raw_config describes another"):
        save_params(tmp_path / "out", params, config, other, None, dtype="float32", model_card="")


def test_one_tensor_at_a_time_comes_to_the_host(tmp_path, monkeypatch):
    """The kernels of a layer are fetched one by one; a whole stack, or the whole tree, never is."""
    save_tiny(tmp_path / "in")
    export(tmp_path / "in", tmp_path / "viewed", mesh=sharding.make_mesh(fsdp=8))
    # As from an accelerator: what the host holds already is only looked at.
    monkeypatch.setattr(models_export, "_on_host", lambda data: False)
    seen = []
    real = np.asarray
    monkeypatch.setattr(
        np, "asarray", lambda value, *more, **named: seen.append(np.size(value)) or real(value, *more, **named)
    )
    export(tmp_path / "in", tmp_path / "out", mesh=sharding.make_mesh(fsdp=8))
    assert max(seen) <= 128 * 64  # the embedding
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "viewed")]
    assert written[0] == written[1]
    jax.effects_barrier()
