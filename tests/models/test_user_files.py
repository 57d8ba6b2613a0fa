"""Model folders as users have them: tied heads, names of tensors, end tokens, templates, leftovers, pointers."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers

import jaxforget
from jaxforget.errors import UserError
from jaxforget.lm.completion import completer
from jaxforget.lm.continuations import ContinuationScorer
from jaxforget.lm.forward import make_forward
from jaxforget.lm.scoring import Scorer
from jaxforget.models.export import save_params
from jaxforget.models.folders import read_config
from jaxforget.models.load import EMBEDDING, HEAD, INDEX, load_params
from jaxforget.models.transformer import Transformer
from tests.models.tiny import save_tiny

TOKENS = np.arange(24)[None]


@pytest.fixture
def tied(tmp_path):
    """A folder with a tied model."""
    save_tiny(tmp_path, "tied")
    return tmp_path


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = change(safetensors.torch.load_file(path))
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def split(folder, second):
    """Moves the tensors `second` into a second file; returns the weight map."""
    path = folder / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    parts = {"a.safetensors": {n: t for n, t in tensors.items() if n not in second}}
    parts["b.safetensors"] = {n: t for n, t in tensors.items() if n in second}
    for name, part in parts.items():
        safetensors.torch.save_file(part, folder / name, {"format": "pt"})
    path.unlink()
    return {tensor: name for name, part in parts.items() for tensor in part}


def ours(folder):
    config, _ = read_config(folder)
    return np.asarray(Transformer(config).apply({"params": load_params(folder, config, dtype="float32")}, TOKENS))


def theirs(folder):
    with torch.no_grad():
        return transformers.LlamaForCausalLM.from_pretrained(folder)(torch.tensor(TOKENS)).logits.numpy()


def own_head(tensors):
    return tensors | {HEAD: tensors[EMBEDDING] * -0.5}


def test_a_stored_head_that_differs_is_used_and_exported_untied(tied):
    before = ours(tied)
    rewrite(tied, own_head)
    found = ours(tied)
    np.testing.assert_allclose(found, -0.5 * before, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found, theirs(tied), rtol=1e-4, atol=1e-4)
    config, raw = read_config(tied)
    params = load_params(tied, config, dtype="float32")
    save_params(tied / "out", params, config, raw, tied, dtype="float32", model_card="")
    assert json.loads((tied / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    np.testing.assert_allclose(theirs(tied / "out"), found, rtol=1e-4, atol=1e-4)


def test_a_head_that_differs_in_one_number_is_no_tied_head(tied):
    def change(tensors):
        head = tensors[EMBEDDING].clone()
        head[-1, -1] += 1
        return tensors | {HEAD: head}

    rewrite(tied, change)
    assert not read_config(tied)[0].tie_word_embeddings


def test_a_head_that_only_a_shard_knows_is_used(tied):
    rewrite(tied, own_head)
    weight_map = split(tied, {HEAD})
    weight_map.pop(HEAD)
    index(tied, weight_map | {"model.norm.weight": "a.safetensors"})
    # The head lies in a file that the index does not name: such a file is no part of the model.
    assert read_config(tied)[0].tie_word_embeddings
    (tied / "b.safetensors").unlink()
    both = safetensors.torch.load_file(tied / "a.safetensors")
    safetensors.torch.save_file(own_head(both), tied / "a.safetensors", {"format": "pt"})
    assert not read_config(tied)[0].tie_word_embeddings


def test_a_model_with_its_own_head_is_not_loaded_as_its_tied_base(tied):
    config, _ = read_config(tied)
    rewrite(tied, own_head)
    with pytest.raises(UserError, match=f"{HEAD} differs from the embedding"):
        load_params(tied, config, dtype="float32")


def test_a_head_of_another_shape_is_named(tied):
    rewrite(tied, lambda tensors: tensors | {HEAD: torch.zeros(5, 64)})
    with pytest.raises(UserError, match=r"lm_head.weight has shape \[5, 64\]"):
        ours(tied)


def test_a_tied_model_may_be_stored_under_the_heads_name(tied):
    expected = ours(tied)
    rewrite(tied, lambda t: {HEAD if name == EMBEDDING else name: tensor for name, tensor in t.items()})
    np.testing.assert_array_equal(ours(tied), expected)


def test_an_untied_model_without_its_embedding_is_refused(tmp_path):
    save_tiny(tmp_path)
    rewrite(tmp_path, lambda t: {name: tensor for name, tensor in t.items() if name != EMBEDDING})
    with pytest.raises(UserError, match=f"tensor {EMBEDDING} is missing"):
        ours(tmp_path)


@pytest.mark.parametrize("shape", ["grouped", "tied"])
def test_names_may_lack_their_prefix(tmp_path, shape):
    save_tiny(tmp_path, shape)
    expected = ours(tmp_path)
    rewrite(tmp_path, lambda t: {name.removeprefix("model."): tensor for name, tensor in t.items()})
    np.testing.assert_array_equal(ours(tmp_path), expected)


def test_names_with_a_wrappers_prefix_are_explained(tied):
    rewrite(tied, lambda t: {f"module.{name}": tensor for name, tensor in t.items()})
    with pytest.raises(UserError, match="without the prefix 'module.'"):
        ours(tied)


def test_a_tensor_with_and_without_prefix_is_refused(tied):
    rewrite(tied, lambda t: t | {"norm.weight": t["model.norm.weight"].clone()})
    with pytest.raises(UserError, match="twice"):
        ours(tied)


@pytest.mark.parametrize("absent", [HEAD, "model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_an_index_may_list_what_a_tied_model_does_not_store(tied, absent):
    expected = ours(tied)
    index(tied, split(tied, {"model.norm.weight"}) | {absent: "b.safetensors"})
    np.testing.assert_array_equal(ours(tied), expected)


@pytest.mark.parametrize("absent", ["model.layers.1.self_attn.q_proj.bias", "model.layers.9.mlp.up_proj.weight"])
def test_an_index_that_lists_other_tensors_is_refused(tied, absent):
    index(tied, split(tied, {"model.norm.weight"}) | {absent: "b.safetensors"})
    with pytest.raises(UserError, match=f"lacks tensor {absent}"):
        ours(tied)


@pytest.mark.parametrize(
    ("generation", "ends"),
    [({"eos_token_id": [4, 7]}, (4, 7)), ({"eos_token_id": 9}, 9), ({"eos_token_id": None}, 2), ({}, 2), (None, 2)],
)
def test_end_tokens_are_those_of_the_generation_config(tied, generation, ends):
    (tied / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (tied / "generation_config.json").write_text(json.dumps(generation))
    config, raw = read_config(tied)
    assert config.eos_token_id == ends
    assert raw["eos_token_id"] == 2
    params = load_params(tied, config, dtype="float32")
    save_params(tied / "out", params, config, raw, tied, dtype="float32", model_card="")
    assert read_config(tied / "out")[0].eos_token_id == ends
    # Without a folder to copy from, the end tokens are written all the same.
    save_params(tied / "made", params, config, raw, None, dtype="float32", model_card="")
    assert read_config(tied / "made")[0].eos_token_id == ends


@pytest.mark.parametrize("ends", ['"two"', "-1", "[1, true]", "{}"])
def test_end_tokens_that_are_none_are_named(tied, ends):
    (tied / "generation_config.json").write_text(f'{{"eos_token_id": {ends}}}')
    with pytest.raises(UserError, match=r"generation_config\.json: eos_token_id"):
        read_config(tied)


def test_generation_stops_at_the_generation_configs_tokens(tiny_world, tmp_path):
    folder = shutil.copytree(tiny_world / "base", tmp_path / "model")
    prompt = [[1, 5, 9]]
    first = completer(jaxforget.load(folder))(prompt, 8)[0]
    assert len(first) == 8
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [first[3]]}))
    assert completer(jaxforget.load(folder))(prompt, 8)[0] == first[: first.index(first[3])]


def test_every_chat_template_is_exported(tiny_world, tmp_path):
    folder = shutil.copytree(tiny_world / "base", tmp_path / "model")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ tools }}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    out = jaxforget.export(jaxforget.load(folder), tmp_path / "out")
    assert (out / "additional_chat_templates" / "tool_use.jinja").read_text() == "{{ tools }}"
    assert (out / "chat_template.jinja").read_text() == "{{ messages }}"


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json", "tokenizer.json"])
def test_a_git_lfs_pointer_is_named(tiny_world, tmp_path, name):
    folder = shutil.copytree(tiny_world / "base", tmp_path / "model")
    (folder / name).write_text(POINTER)
    with pytest.raises(UserError, match=rf"{name}: is a Git LFS pointer.*git lfs pull"):
        jaxforget.load(folder)


def test_a_token_beyond_the_embedding_is_refused_where_it_is_scored(tiny_world):

    model = jaxforget.load(tiny_world / "base")
    beyond = model.config.vocab_size
    scorer = Scorer(make_forward(model.module), model.mesh, batch=8, tile=64)
    for ask in (
        lambda: scorer.log_probabilities(model.params, [[1, 2, beyond]]),
        lambda: scorer.next_token(model.params, [[1, beyond]]),
        lambda: ContinuationScorer(model.module, model.mesh)(model.params, [([1], [beyond])]),
        lambda: completer(model)([[1, beyond]], 4),
    ):
        with pytest.raises(UserError, match=f"token id {beyond}, beyond the model's vocabulary"):
            ask()
