"""The loss tile by tile beside the loss on whole logits, for any tile and any rubbish where nothing is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.train.targets import generic_logits, suppress, suppression_table
from jaxforget.train.tiles import Teachers, TileOptions, tiled_labels, tiled_log_probabilities, tiled_loss
from tests.train.tiny import (
    ALPHA,
    LENGTH,
    ROWS,
    TRANSLATED,
    VOCABULARY,
    assert_same_bits,
    largest_difference,
    make_batch,
    mesh_of,
    trained,
    whole_logits,
)

WIDTH = 12


@pytest.fixture(scope="module")
def inputs():
    """hidden, head, coefficients and teachers of one batch."""
    batch = make_batch(5)
    rng = np.random.default_rng(5)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    teachers = Teachers(
        base_hidden=normal(ROWS, TRANSLATED, WIDTH),
        base_head=normal(WIDTH, VOCABULARY),
        reinforced_hidden=normal(ROWS, LENGTH, WIDTH),
        reinforced_head=normal(WIDTH, VOCABULARY),
        position_map=batch["position_map"],
        # The retain rows of a batch suppress nothing; the step sees to that.
        table=suppression_table(
            np.where(batch["retain"][:, None] > 0, -1, batch["suppress_ids"]), batch["suppress_from"], VOCABULARY
        ),
        retain=batch["retain"],
    )
    coefficients = np.where(trained(batch), rng.random((ROWS, LENGTH), np.float32) + 0.1, 0)
    return normal(ROWS, LENGTH, WIDTH), normal(WIDTH, VOCABULARY), coefficients, teachers


def capped(logits, soft_cap):
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def whole(hidden, head, coefficients, teachers, soft, soft_cap):
    """Compute the same two sums from whole logits."""
    place = jnp.maximum(teachers.position_map, 0)[..., None]
    v_base = jnp.take_along_axis(capped(teachers.base_hidden @ teachers.base_head, soft_cap), place, axis=1)
    rows = jnp.repeat(jnp.arange(ROWS), LENGTH)
    kept = suppress(v_base.reshape(-1, VOCABULARY), teachers.table[rows], place.reshape(-1)).reshape(v_base.shape)
    generic = generic_logits(kept, capped(teachers.reinforced_hidden @ teachers.reinforced_head, soft_cap), ALPHA)
    retain = teachers.retain[:, None, None] > 0
    logp = jax.nn.log_softmax(capped(hidden @ head, soft_cap))
    log_q = jax.nn.log_softmax(jnp.where(retain, v_base, generic))
    kl = jnp.sum(jnp.exp(log_q) * (log_q - logp), axis=-1)
    hard = -jnp.take_along_axis(logp, jnp.argmax(generic, axis=-1)[..., None], axis=-1)[..., 0]
    each = jnp.where(retain[..., 0] | soft, kl, hard) * coefficients
    return jnp.stack([jnp.sum(jnp.where(retain[..., 0], 0, each)), jnp.sum(jnp.where(retain[..., 0], each, 0))])


def losses_and_gradients(loss, *arguments):
    """Both sums, and the gradient of their sum by hidden and by head."""

    def both(hidden, head):
        losses = loss(hidden, head, *arguments[2:])
        return jnp.sum(losses), losses

    return jax.jit(lambda h, w: jax.value_and_grad(both, (0, 1), has_aux=True)(h, w))(*arguments[:2])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("tile", "soft_cap"),
    [(50, None), (10_000, None), (50, 4.0)],
    ids=["remainder", "larger-than-batch", "soft-cap"],
)
def test_equals_whole_logits(inputs, tile, soft_cap, soft):
    options = TileOptions(mesh=mesh_of(), tile=tile, soft_cap=soft_cap, alpha=ALPHA, soft=soft)
    (_, ours), our_gradient = losses_and_gradients(lambda *a: tiled_loss(*a, options), *inputs)
    (_, theirs), their_gradient = losses_and_gradients(lambda *a: whole(*a, soft, soft_cap), *inputs)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)
    assert largest_difference(our_gradient, their_gradient) < 1e-5 * np.abs(their_gradient[1]).max()
    assert ours.dtype == jnp.float32
    assert (np.asarray(ours) > 1).all()


def test_untrained_states_may_be_anything(inputs):
    hidden, head, coefficients, teachers = inputs
    untrained = coefficients == 0
    # Translated positions that no trained one maps to.
    unread = np.ones((ROWS, TRANSLATED), bool)
    rows, positions = np.nonzero(~untrained)
    unread[rows, teachers.position_map[rows, positions]] = False
    assert untrained.any()
    assert unread.any()
    step = jax.jit(
        jax.value_and_grad(lambda h, w, c, t: tiled_loss(h, w, c, t, TileOptions(mesh_of(), 50, None)).sum(), (0, 1))
    )
    clean = step(hidden, head, coefficients, teachers)
    rubbish = teachers.replace(
        base_hidden=np.where(unread[..., None], np.nan, teachers.base_hidden),
        reinforced_hidden=np.where(untrained[..., None], np.nan, teachers.reinforced_hidden),
        position_map=np.where(untrained, 10**6, teachers.position_map),
    )
    assert_same_bits(step(np.where(untrained[..., None], np.nan, hidden), head, coefficients, rubbish), clean)


def test_nothing_trained(inputs):
    hidden, head, coefficients, teachers = inputs
    options = TileOptions(mesh=mesh_of(), tile=50, soft_cap=None, alpha=ALPHA)
    (_, losses), gradient = losses_and_gradients(
        lambda *a: tiled_loss(*a, options), hidden, head, np.zeros_like(coefficients), teachers
    )
    assert losses.tolist() == [0, 0]
    assert all(not np.asarray(part).any() for part in gradient)


def test_labels_are_what_the_loss_trains_towards(inputs):
    hidden, head, coefficients, teachers = inputs
    teachers = teachers.replace(retain=None)
    options = TileOptions(mesh=mesh_of(), tile=50, soft_cap=None, alpha=ALPHA)
    labels = jax.jit(lambda t: tiled_labels(coefficients > 0, t, options))(teachers)
    assert labels.dtype == jnp.int32
    assert ((np.asarray(labels) >= 0) == (coefficients > 0)).all()
    cached = Teachers(labels=labels)
    assert_same_bits(
        losses_and_gradients(lambda *a: tiled_loss(*a, options), hidden, head, coefficients, cached),
        losses_and_gradients(lambda *a: tiled_loss(*a, options), hidden, head, coefficients, teachers),
    )


@pytest.mark.parametrize(("mesh", "soft_cap"), [({}, 4.0), ({"data": 2, "fsdp": 4}, None)], ids=str)
def test_log_probabilities(inputs, mesh, soft_cap):
    hidden, head, coefficients, _ = inputs
    rng = np.random.default_rng(2)
    labels = np.where(coefficients > 0, rng.integers(0, VOCABULARY, coefficients.shape), -1).astype(np.int32)
    score = jax.jit(lambda h: tiled_log_probabilities(h, head, labels, mesh_of(**mesh), 10, soft_cap))
    logp = jax.nn.log_softmax(capped(hidden @ head, soft_cap))
    theirs = np.take_along_axis(np.asarray(logp), np.maximum(labels, 0)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(score(hidden), np.where(labels >= 0, theirs, 0), rtol=1e-5)
    rubbish = np.where((labels < 0)[..., None], np.nan, hidden)
    assert_same_bits(score(rubbish), score(hidden))
    program = score.lower(hidden).compile().as_text()
    tokens = ROWS * LENGTH // mesh_of(**mesh).size
    assert not whole_logits(program, tokens)
    assert whole_logits(program, 1), "not even a tile's logits were found: the search sees nothing"
