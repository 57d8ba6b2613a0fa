"""Relearning: what is taught and asked, in what batches, by the reinforced model's own step."""

import jax
import numpy as np
import optax
import pytest

from jaxforget.errors import UserError
from jaxforget.evals.probes import Probe
from jaxforget.evals.relearning import RelearnOptions, asked_and_taught, batches_of, make_relearner
from tests.train.tiny import TILE, mesh_of, put, softmax, toy_forward, toy_params

PROBES = [Probe("Ada is in", " Oz"), Probe("Bo has a", " cat"), Probe("Cy likes", " Ada"), Probe("He is in", " Oz")]


def test_no_sentence_that_is_taught_holds_an_answer_that_is_asked():
    sentences = [
        "Ada sang.",
        "Bo's cat slept.",
        "Ada went to Oz.",
        "Ada met Bo.",
        "A CAT sat.",
        "Oz is far.",
        "Oz is old.",
    ]
    asked, taught = asked_and_taught(PROBES, sentences)
    # Of three answers one is asked: the one told least often, "cat".
    assert asked == [PROBES[1]]
    assert taught == ["Ada sang.", "Ada went to Oz.", "Ada met Bo.", "Oz is far.", "Oz is old."]
    with pytest.raises(UserError, match="no text remains to relearn from"):
        asked_and_taught(PROBES[1:2], ["Bo's cat."])


def test_batches_show_every_block_once_a_pass_and_pad_with_no_weight():
    blocks = [np.arange(2, 2 + n, dtype=np.int32) for n in (3, 5, 4)]
    batches = batches_of(blocks, 2, seed=0)
    rows = []
    for _ in range(3):
        batch = next(batches)
        assert batch["tokens"].shape == batch["weights"].shape == (2, 5)
        assert (batch["weights"] == (batch["tokens"] > 0)).all()
        rows += [int(n) for n in batch["weights"].sum(axis=1)]
    assert sorted(rows[:3]) == sorted(rows[3:]) == [3, 4, 5]


def test_training_is_plain_next_token_training_beside_optax_by_hand():
    """Three steps on one batch, beside the loss written out with whole logits and differentiated by jax."""
    options = RelearnOptions(steps=(0, 1, 3), batch=2, learning_rate=0.05, tile=TILE)
    mesh = mesh_of(fsdp=2)
    block = np.array([1, 4, 2, 7, 3, 3, 5, 6], np.int32)
    calls = []

    def measure(params):
        calls.append(1)
        return np.asarray(params["lm_head"], np.float64).ravel()

    found = make_relearner(toy_forward(), mesh, options)(put(toy_params(1), mesh), [block, block], measure)
    assert sorted(found) == [0, 1, 3]
    assert len(calls) == 3

    def loss(params):
        x = params["embed"][block]
        mean = jax.numpy.cumsum(x, axis=0) / jax.numpy.arange(1, len(block) + 1)[:, None]
        logits = jax.numpy.tanh(x + mean @ params["mix"]) @ params["lm_head"]
        return -jax.nn.log_softmax(logits)[np.arange(7), block[1:]].mean()

    params = jax.tree.map(jax.numpy.asarray, toy_params(1))
    optimizer = optax.adam(0.05, b1=0.9, b2=0.98)
    state = optimizer.init(params)
    np.testing.assert_allclose(found[0], np.asarray(params["lm_head"]).ravel(), rtol=1e-6)
    for step in range(3):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        if step + 1 in found:
            np.testing.assert_allclose(found[step + 1], np.asarray(params["lm_head"]).ravel(), rtol=2e-4, atol=2e-5)
    assert np.isfinite(softmax(np.asarray(params["lm_head"]))).all()


def test_two_models_train_by_one_compilation_and_give_the_same_for_the_same():
    options = RelearnOptions(steps=(0, 2), batch=2, learning_rate=0.01, tile=TILE, seed=3)
    mesh = mesh_of(fsdp=2)
    blocks = [np.array([1, 4, 2, 7], np.int32), np.array([2, 2, 5, 1], np.int32), np.array([3, 1, 5, 4], np.int32)]
    relearn = make_relearner(toy_forward(), mesh, options)

    def run(seed):
        return relearn(put(toy_params(seed), mesh), blocks, lambda params: np.asarray(params["mix"]))[2]

    first, other, again = run(1), run(2), run(1)
    assert not np.allclose(first, other)
    np.testing.assert_array_equal(first, again)
