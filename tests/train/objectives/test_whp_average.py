"""The step of `whp_average` beside its definition on whole probabilities, written as loops in fp64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxforget.sharding import put_batch
from jaxforget.train.objectives import METHODS, Retain
from jaxforget.train.state import init_state, state_shardings
from jaxforget.train.step import StepOptions, make_label_step, make_step
from jaxforget.train.types import Frozen
from tests.train.tiny import (
    LENGTH,
    ROWS,
    TILE,
    TRANSLATED,
    VOCABULARY,
    largest_difference,
    mesh_of,
    near,
    put,
    shardings_of,
    softmax,
    toy_forward,
    toy_params,
    whole_logits,
)

COUNT, MOVED = 3, 5
NEVER = (1, 4, 200)
FORWARD = toy_forward()


def batch() -> dict[str, np.ndarray]:
    """Rows with several translations: repeated sources, sources that are targets, padding, retain rows, questions."""
    rng = np.random.default_rng(5)
    given = {
        "tokens": rng.integers(0, VOCABULARY, (ROWS, LENGTH), np.int32),
        "weights": np.ones((ROWS, LENGTH), np.float32),
        "answer": (rng.random((ROWS, LENGTH)) < 0.8).astype(np.float32),
        "retain": (np.arange(ROWS) % 3 == 1).astype(np.float32),
        "position_map": np.tile(np.arange(LENGTH, dtype=np.int32), (ROWS, 1)),
        "translations": rng.integers(0, VOCABULARY, (ROWS, COUNT, TRANSLATED), np.int32),
        "position_maps": np.sort(rng.integers(0, TRANSLATED, (ROWS, COUNT, LENGTH)), axis=-1).astype(np.int32),
        "moved_from": np.full((ROWS, COUNT, MOVED), -1, np.int32),
        "moved_to": np.full((ROWS, MOVED), -1, np.int32),
        "moved_since": np.full((ROWS, MOVED), -1, np.int32),
    }
    untrained = rng.random((ROWS, LENGTH)) < 0.1
    given["position_maps"][np.repeat(untrained[:, None], COUNT, axis=1)] = -1
    for row in range(ROWS):
        for k in range(int(rng.integers(0, MOVED + 1))):
            # Few tokens, so that the source of one move is the target of another, and base's likely ones.
            given["moved_to"][row, k], given["moved_since"][row, k] = rng.integers(0, 8), rng.integers(0, LENGTH)
            for n in range(COUNT):
                free = [token for token in range(8) if token not in given["moved_from"][row, n]]
                if rng.random() < 0.8:
                    given["moved_from"][row, n, k] = rng.choice(free)
    for row, end in enumerate(rng.integers(LENGTH // 2, LENGTH + 1, ROWS)):
        given["weights"][row, end:] = 0
    given["weights"][-1] = 0
    kept = given["retain"] > 0
    given["translations"][kept, :, :LENGTH] = given["tokens"][kept][:, None]
    given["position_maps"][kept] = np.arange(LENGTH)
    given["moved_from"][kept] = -1
    return given


def mean_probabilities(base, given, never=(), moved=True):
    """Return base's mean probabilities [B, S, V] by loops over rows, translations, positions and moves."""
    found = np.zeros((ROWS, LENGTH, VOCABULARY))
    for n in range(COUNT):
        v = np.asarray(FORWARD.hidden(base, given["translations"][:, n]) @ FORWARD.head(base), np.float64)
        v[..., list(never)] = v.mean(axis=-1, keepdims=True)
        for row, place in np.argwhere(given["position_maps"][:, n] >= 0):
            p = softmax(v[row, given["position_maps"][row, n, place]])
            q = p.copy()
            for k in range(MOVED if moved else 0):
                source, since = given["moved_from"][row, n, k], given["moved_since"][row, k]
                if source >= 0 and place >= since:
                    q[source] -= p[source]
                    q[given["moved_to"][row, k]] += p[source]
            found[row, place] += q / COUNT
    return found


def expected(student, base, given, never=()):
    """Return the forget loss and the retain loss on whole logits; JAX differentiates them by `student`."""
    q = mean_probabilities(base, given, never)
    logp = jax.nn.log_softmax(FORWARD.hidden(student, given["tokens"]) @ FORWARD.head(student))
    base_logp = jax.nn.log_softmax(FORWARD.hidden(base, given["tokens"]) @ FORWARD.head(base))
    shifted = np.pad(given["answer"][:, 1:], ((0, 0), (0, 1)))
    kept = given["retain"][:, None]
    trained = given["weights"] * shifted
    forget, retain = trained * (1 - kept) * (given["position_maps"][:, 0] >= 0), trained * kept
    entropy = (q * np.log(np.where(q > 0, q, 1))).sum(axis=-1)
    each = entropy - (q.astype(np.float32) * logp).sum(axis=-1)
    held = (jnp.exp(base_logp) * (base_logp - logp)).sum(axis=-1)
    return (each * forget).sum() / forget.sum(), (held * retain).sum() / retain.sum()


def run(mesh=(1, 1, 1), accumulate=1, changes=None, never=(), retain=True):
    """Loss, retain loss and gradient of one step, and the compiled program."""
    mesh = mesh_of(*mesh)
    base = toy_params(1)
    student = near(base, 3)
    objective = METHODS["whp_average"](translations=COUNT, never=never)
    optimizer = optax.chain(optax.trace(decay=0.0), optax.sgd(0.1))
    shardings = state_shardings(student, shardings_of(student, mesh), optimizer, mesh)
    options = StepOptions(tile=TILE, accumulate=accumulate)
    step = make_step(FORWARD, optimizer, objective, options, mesh, shardings, Retain(0.7) if retain else None)
    frozen = Frozen(base=put(base, mesh))
    state = init_state(put(student, mesh), optimizer, shardings)
    given = put_batch(batch() | (changes or {}), mesh)
    program = step.lower(state, frozen, given).compile().as_text()
    state, metrics = step(state, frozen, given)
    return state.opt_state[0].trace, jax.device_get(metrics), program


@pytest.mark.parametrize("never", [(), NEVER])
def test_a_step_is_the_definition_on_whole_probabilities(never):
    gradient, metrics, program = run(never=never)
    base, given = toy_params(1), batch()

    def loss(student):
        losses = expected(student, base, given, never)
        return losses[0] + 0.7 * losses[1], losses

    (_, losses), theirs = jax.value_and_grad(loss, has_aux=True)(near(base, 3))
    np.testing.assert_allclose([metrics["loss"], metrics["retain_loss"]], losses, rtol=2e-5)
    assert losses[0] > 0.1
    size = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    assert largest_difference(gradient, theirs) < 1e-5 * max(size, 1)
    assert not whole_logits(program, ROWS * LENGTH), "an array of all tokens x vocabulary"
    assert whole_logits(program, TILE), "not even a tile's logits were found: the search sees nothing"


def test_moving_probability_changes_the_targets():
    """The reference would agree with a step that moves nothing if no move mattered."""
    with_moves, without = run()[1], run(changes={"moved_from": np.full((ROWS, COUNT, MOVED), -1, np.int32)})[1]
    assert abs(with_moves["loss"] - without["loss"]) > 1e-2
    q = mean_probabilities(toy_params(1), batch())
    np.testing.assert_allclose(q.sum(axis=-1)[batch()["position_maps"][:, 0] >= 0], 1)


@pytest.mark.parametrize("retain", [True, False])
def test_accumulated_on_eight_devices_equals_one(retain):
    alone, spread = run(retain=retain), run((2, 4, 1), 2, retain=retain)
    assert largest_difference(alone[0], spread[0]) < 1e-5
    assert largest_difference(alone[1], spread[1]) < 1e-5


def test_padding_may_hold_ids_that_base_does_not_know():
    """Tokens of a translation behind the last trained position have no effect, whatever they are."""
    given = batch()
    trained = (given["position_maps"] >= 0) & (given["weights"] > 0)[:, None]
    used = np.where(trained, given["position_maps"], -1).max(axis=-1, keepdims=True)
    behind = np.arange(TRANSLATED) > used
    other = {"translations": np.where(behind, 10 * VOCABULARY, given["translations"]).astype(np.int32)}
    assert largest_difference(run()[1], run(changes=other)[1]) == 0


@pytest.mark.parametrize("left_out", ["answer", "weights"])
def test_a_batch_without_trained_positions_changes_nothing(left_out):
    gradient, metrics, _ = run(changes={left_out: np.zeros((ROWS, LENGTH), np.float32)})
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
    assert (metrics["loss"], metrics["grad_norm"]) == (0, 0)


def test_labels_are_base_s_own_predictions():
    """The share of labels that name the text counts what base itself says, not names that move back."""
    mesh, given = mesh_of(), batch()
    base = toy_params(1)
    objective = METHODS["whp_average"](translations=COUNT, never=NEVER)
    step = make_label_step(FORWARD, objective, StepOptions(tile=TILE), mesh)
    labels = np.asarray(step(Frozen(base=put(base, mesh)), put_batch(given, mesh)))
    trained = (np.pad(given["answer"][:, 1:], ((0, 0), (0, 1))) > 0) & (given["weights"] > 0)
    trained &= given["position_maps"][:, 0] >= 0
    theirs = mean_probabilities(base, given, NEVER, moved=False).argmax(axis=-1)
    np.testing.assert_array_equal(labels, np.where(trained, theirs, -1))
    assert not np.isin(labels, NEVER).any()
