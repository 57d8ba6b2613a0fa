"""The loss tile by tile beside the loss on whole logits, for any tile and any rubbish where nothing is trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.train.objectives import METHODS, Retain
from jaxforget.train.step import RowLoss
from jaxforget.train.targets import generic_logits, suppress, suppression_table
from jaxforget.train.tiles import TileInputs, TileOptions, tiled_labels, tiled_log_probabilities, tiled_loss
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

    teachers = TileInputs(
        rows={
            "base_hidden": normal(ROWS, TRANSLATED, WIDTH),
            "reinforced_hidden": normal(ROWS, LENGTH, WIDTH),
            "position_map": batch["position_map"],
            "suppression": suppression_table(batch["suppress_ids"], batch["suppress_from"], VOCABULARY),
            "retain": batch["retain"],
        },
        heads={"base_head": normal(WIDTH, VOCABULARY), "reinforced_head": normal(WIDTH, VOCABULARY)},
    )
    coefficients = np.where(trained(batch), rng.random((ROWS, LENGTH), np.float32) + 0.1, 0)
    return normal(ROWS, LENGTH, WIDTH), normal(WIDTH, VOCABULARY), coefficients, teachers


def loss_of(soft=False, **settings):
    """The loss of a tile with forget rows and retain rows."""
    return RowLoss(METHODS["whp_soft" if soft else "whp"](alpha=ALPHA, **settings), Retain(1.0))


def capped(logits, soft_cap):
    return logits if soft_cap is None else soft_cap * jnp.tanh(logits / soft_cap)


def whole(hidden, head, coefficients, teachers, soft, soft_cap):
    """Return the same sum and its two parts from whole logits."""
    given, heads = teachers.rows, teachers.heads
    place = jnp.maximum(given["position_map"], 0)[..., None]
    v_base = jnp.take_along_axis(capped(given["base_hidden"] @ heads["base_head"], soft_cap), place, axis=1)
    rows = jnp.repeat(jnp.arange(ROWS), LENGTH)
    kept = suppress(v_base.reshape(-1, VOCABULARY), given["suppression"][rows], place.reshape(-1)).reshape(v_base.shape)
    generic = generic_logits(kept, capped(given["reinforced_hidden"] @ heads["reinforced_head"], soft_cap), ALPHA)
    retain = given["retain"][:, None, None] > 0
    logp = jax.nn.log_softmax(capped(hidden @ head, soft_cap))
    log_q = jax.nn.log_softmax(jnp.where(retain, v_base, generic))
    kl = jnp.sum(jnp.exp(log_q) * (log_q - logp), axis=-1)
    hard = -jnp.take_along_axis(logp, jnp.argmax(generic, axis=-1)[..., None], axis=-1)[..., 0]
    each = jnp.where(retain[..., 0] | soft, kl, hard) * coefficients
    sums = jnp.stack([jnp.sum(jnp.where(retain[..., 0], 0, each)), jnp.sum(jnp.where(retain[..., 0], each, 0))])
    return jnp.sum(sums), sums


def losses_and_gradients(loss, *arguments):
    """Return (the sum of the losses, its two parts), and the gradient of the sum by hidden and by head."""
    gradient = jax.value_and_grad(lambda h, w: loss(h, w, *arguments[2:]), (0, 1), has_aux=True)
    return jax.jit(gradient)(*arguments[:2])


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    ("tile", "soft_cap"),
    [(50, None), (10_000, None), (50, 4.0)],
    ids=["remainder", "larger-than-batch", "soft-cap"],
)
def test_equals_whole_logits(inputs, tile, soft_cap, soft):
    options = TileOptions(mesh=mesh_of(), tile=tile, soft_cap=soft_cap)
    (_, ours), our_gradient = losses_and_gradients(lambda *a: tiled_loss(*a, loss_of(soft), options), *inputs)
    (_, theirs), their_gradient = losses_and_gradients(lambda *a: whole(*a, soft, soft_cap), *inputs)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6)
    assert largest_difference(our_gradient, their_gradient) < 1e-5 * np.abs(their_gradient[1]).max()
    assert ours.dtype == jnp.float32
    assert (np.asarray(ours) > 1).all()


def test_the_parts_have_no_gradient(inputs):
    """Only the sum is differentiable, so a loss that weighs the parts differently has no wrong gradient."""
    options = TileOptions(mesh=mesh_of(), tile=50, soft_cap=None)

    def loss(hidden, head, *more):
        total, parts = tiled_loss(hidden, head, *more, loss_of(), options)
        return total + 3 * parts[0] - 2 * parts[1], parts

    _, gradient = losses_and_gradients(loss, *inputs)
    _, expected = losses_and_gradients(lambda *a: tiled_loss(*a, loss_of(), options), *inputs)
    assert_same_bits(gradient, expected)
    assert all(np.asarray(part).any() for part in gradient)


def test_untrained_states_may_be_anything(inputs):
    hidden, head, coefficients, teachers = inputs
    untrained = coefficients == 0
    # Translated positions that no trained one maps to.
    unread = np.ones((ROWS, TRANSLATED), bool)
    rows, positions = np.nonzero(~untrained)
    unread[rows, teachers.rows["position_map"][rows, positions]] = False
    assert untrained.any()
    assert unread.any()
    step = jax.jit(
        jax.value_and_grad(
            lambda h, w, c, t: tiled_loss(h, w, c, t, loss_of(), TileOptions(mesh_of(), 50, None))[0], (0, 1)
        )
    )
    clean = step(hidden, head, coefficients, teachers)
    rubbish = teachers.replace(
        rows={
            **teachers.rows,
            "base_hidden": np.where(unread[..., None], np.nan, teachers.rows["base_hidden"]),
            "reinforced_hidden": np.where(untrained[..., None], np.nan, teachers.rows["reinforced_hidden"]),
            "position_map": np.where(untrained, 10**6, teachers.rows["position_map"]),
        }
    )
    assert_same_bits(step(np.where(untrained[..., None], np.nan, hidden), head, coefficients, rubbish), clean)


def test_nothing_trained(inputs):
    hidden, head, coefficients, teachers = inputs
    options = TileOptions(mesh=mesh_of(), tile=50, soft_cap=None)
    (_, losses), gradient = losses_and_gradients(
        lambda *a: tiled_loss(*a, loss_of(), options), hidden, head, np.zeros_like(coefficients), teachers
    )
    assert losses.tolist() == [0, 0]
    assert all(not np.asarray(part).any() for part in gradient)


def test_labels_are_what_the_loss_trains_towards(inputs):
    hidden, head, coefficients, teachers = inputs
    teachers = TileInputs(rows=dict(teachers.rows), heads=teachers.heads)
    del teachers.rows["retain"]
    options = TileOptions(mesh=mesh_of(), tile=50, soft_cap=None)
    objective = METHODS["whp"](alpha=ALPHA)
    labels = jax.jit(lambda t: tiled_labels(coefficients > 0, t, objective.label, options))(teachers)
    assert labels.dtype == jnp.int32
    assert ((np.asarray(labels) >= 0) == (coefficients > 0)).all()
    cached = METHODS["whp"](alpha=ALPHA, cached=True).tile_loss
    assert_same_bits(
        losses_and_gradients(
            lambda *a: tiled_loss(*a, cached, options), hidden, head, coefficients, TileInputs(rows={"labels": labels})
        ),
        losses_and_gradients(
            lambda *a: tiled_loss(*a, objective.tile_loss, options), hidden, head, coefficients, teachers
        ),
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_a_negative_coefficient_trains_in_the_other_direction(inputs, sign):
    """Gradient ascent: only a coefficient of exactly 0 means that a token does not train."""
    hidden, head, coefficients, _ = inputs
    labels = np.random.default_rng(3).integers(0, VOCABULARY, coefficients.shape).astype(np.int32)
    given = TileInputs(rows={"labels": labels})
    tile_loss = METHODS["whp"](cached=True).tile_loss
    options = TileOptions(mesh=mesh_of(), tile=50, soft_cap=None)
    (_, ours), gradient = losses_and_gradients(
        lambda *a: tiled_loss(*a, tile_loss, options), hidden, head, sign * coefficients, given
    )

    def expected(hidden, head):
        logp = jnp.take_along_axis(jax.nn.log_softmax(hidden @ head), labels[..., None], axis=-1)[..., 0]
        return -jnp.sum(sign * coefficients * logp)

    value, theirs = jax.value_and_grad(expected, (0, 1))(hidden, head)
    np.testing.assert_allclose(ours[0], value, rtol=1e-5)
    assert largest_difference(gradient, theirs) < 1e-5 * np.abs(theirs[1]).max()


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
