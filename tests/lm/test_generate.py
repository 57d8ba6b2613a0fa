"""Completions: the cache against no cache, transformers, batching, meshes and sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxforget import sharding
from jaxforget.errors import UserError
from jaxforget.lm import generate as module
from jaxforget.lm.generate import generate
from jaxforget.models.folders import read_config
from jaxforget.models.load import load_params
from jaxforget.models.transformer import Transformer
from tests.models.placing import shardings_of
from tests.models.tiny import save_tiny

NEW = 12
PROMPTS = [np.random.default_rng(length).integers(3, 128, length).tolist() for length in (1, 5, 17, 9, 40, 3)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a model, and the model as transformers has it."""
    path = tmp_path_factory.mktemp("model")
    return path, save_tiny(path, "llama3-rope", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def ours(folder):
    """Module and parameters."""
    config, _ = read_config(folder[0])
    return Transformer(config), load_params(folder[0], config, dtype="float32")


@pytest.fixture(scope="module")
def greedy(ours):
    """Return the greedy completions of `PROMPTS`."""
    return generate(*ours, PROMPTS, max_new_tokens=NEW)


def test_equals_the_uncached_argmax(ours, greedy):
    model, params = ours
    width = max(map(len, PROMPTS)) + NEW
    forward = jax.jit(lambda tokens: jnp.argmax(model.apply({"params": params}, tokens), axis=-1))
    tokens = np.zeros((len(PROMPTS), width), np.int32)
    lengths = np.array([len(prompt) for prompt in PROMPTS])
    for row, prompt in enumerate(PROMPTS):
        tokens[row, : len(prompt)] = prompt
    for step in range(NEW):
        argmax = np.asarray(forward(tokens))
        tokens[range(len(PROMPTS)), lengths + step] = argmax[range(len(PROMPTS)), lengths + step - 1]
    assert greedy == [tokens[row, length : length + NEW].tolist() for row, length in enumerate(lengths)]


def test_equals_transformers(folder, greedy):
    for prompt, completion in zip(PROMPTS, greedy, strict=True):
        given = torch.tensor([prompt])
        made = folder[1].generate(
            given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=NEW,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert made[0, len(prompt) :].tolist() == completion


def test_rows_end_at_an_end_token_each_by_itself(ours, greedy):
    ends = [greedy[0][4], greedy[3][7]]
    cut = generate(*ours, PROMPTS, max_new_tokens=NEW, eos_ids=ends)
    for whole, short in zip(greedy, cut, strict=True):
        first = next((place for place, token in enumerate(whole) if token in ends), NEW)
        assert short == whole[:first]
    assert len({len(row) for row in cut}) > 1


def test_neighbours_and_padding_change_nothing(ours, greedy):
    assert generate(*ours, PROMPTS, max_new_tokens=NEW, batch_rows=2, pad_id=7) == greedy
    assert generate(*ours, [], max_new_tokens=NEW) == []


def test_a_mesh_gives_the_same(folder, greedy):
    config, _ = read_config(folder[0])
    mesh = sharding.make_mesh(2, 2, 2)
    params = load_params(folder[0], config, dtype="float32", shardings=shardings_of(config, mesh))
    model = Transformer(config, constrain=sharding.ActivationSharding(mesh))
    assert generate(model, params, PROMPTS, max_new_tokens=NEW, mesh=mesh) == greedy


def test_like_calls_share_a_program(ours, greedy):
    model, params = ours
    before = module._complete._cache_size()
    # Another equal module, other lengths and limits within the same bounds, other ends and seed.
    generate(Transformer(model.config), params, PROMPTS[:5], max_new_tokens=NEW - 2, eos_ids=[5, 6], seed=4)
    assert module._complete._cache_size() == before


def test_sampling_depends_on_seed_and_place_alone(ours):
    named = {"max_new_tokens": NEW, "temperature": 1.5}
    first = generate(*ours, PROMPTS, seed=1, **named)
    assert generate(*ours, PROMPTS, seed=1, batch_rows=4, **named) == first
    assert generate(*ours, PROMPTS, seed=2, **named) != first
    twins = generate(*ours, [PROMPTS[4]] * 6, seed=1, **named)
    assert len(set(map(tuple, twins))) > 1


def test_sampling_follows_the_probabilities(ours):
    """First tokens drawn 1,024 times beside the softmax: of all, of a nucleus, of a nucleus of one token."""
    model, params = ours
    logits = jax.jit(model.apply)({"params": params}, np.array([PROMPTS[1]]))[0, -1]
    exact = np.exp(np.asarray(logits, np.float64) / 0.7)
    exact /= exact.sum()
    order = np.argsort(-exact)
    for top_p in (1.0, 0.6, 1e-6):
        expected = np.zeros_like(exact)
        kept = order[: int(np.searchsorted(np.cumsum(exact[order]), top_p)) + 1]
        expected[kept] = exact[kept] / exact[kept].sum()
        drawn = generate(
            model, params, [PROMPTS[1]] * 1024, max_new_tokens=1, temperature=0.7, top_p=top_p, batch_rows=1024
        )
        counts = np.bincount(np.concatenate(drawn), minlength=len(exact)) / 1024
        assert np.abs(counts - expected).max() < 0.07  # more than four standard errors
        assert set(np.flatnonzero(counts)) <= set(np.flatnonzero(expected))


@pytest.mark.parametrize(
    ("prompts", "change", "said"),
    [
        ([[1], []], {}, "prompt 1 has no tokens"),
        ([[1, 128]], {}, "token id 128, beyond the model.s vocabulary of 128"),
        ([[-1]], {}, "prompt 0 holds token -1"),
        ([[1]], {"max_new_tokens": 0}, "max_new_tokens=0"),
        ([[1]], {"temperature": -1.0}, "temperature=-1.0"),
        ([[1]], {"top_p": 0.0}, "top_p=0.0"),
    ],
)
def test_faults_are_named(ours, prompts, change, said):
    with pytest.raises(UserError, match=said):
        generate(*ours, prompts, **({"max_new_tokens": 2} | change))
