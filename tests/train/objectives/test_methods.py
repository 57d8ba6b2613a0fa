"""Every method's step beside its definition on whole logits, differentiated by JAX (jaxforget/train/objectives)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxforget.sharding import put_batch
from jaxforget.train.objectives import METHODS, Retain
from jaxforget.train.state import init_state, state_shardings
from jaxforget.train.step import StepOptions, make_step
from jaxforget.train.types import Frozen
from tests.train.tiny import (
    LENGTH,
    ROWS,
    TILE,
    VOCABULARY,
    largest_difference,
    mesh_of,
    near,
    put,
    shardings_of,
    toy_forward,
    toy_params,
    whole_logits,
)

SETTINGS = {
    "npo": {"beta": 0.3},
    "dpo": {"beta": 0.2},
    "simnpo": {"beta": 0.3, "delta": 8.0},
    "undial": {"beta": 3.0},
    "wga": {"beta": 0.7},
    "satimp": {"beta1": 0.5, "beta2": 1.5},
}
NAMES = ("grad_ascent", "npo", "dpo", "simnpo", "undial", "ceu", "wga", "satimp")
FORWARD = toy_forward()


def rows(seed: int) -> dict[str, np.ndarray]:
    """Rows with prompts that do not count, padding, a row without an answer and a row of padding."""
    rng = np.random.default_rng(seed)
    used, answer = np.zeros((ROWS, LENGTH), np.float32), np.zeros((ROWS, LENGTH), np.float32)
    for row, (start, end) in enumerate(zip(rng.integers(1, 8, ROWS), rng.integers(12, LENGTH + 1, ROWS), strict=True)):
        used[row, :end], answer[row, start:end] = 1, 1
    used[2], answer[3] = 0, 0
    return {"tokens": rng.integers(0, VOCABULARY, (ROWS, LENGTH), np.int32), "weights": used, "answer": answer}


def batch() -> dict[str, np.ndarray]:
    other = {name.replace("tokens", "alternate"): value for name, value in rows(1).items() if name == "tokens"}
    more = rows(1)
    other |= {"alternate_weights": more["weights"], "alternate_answer": more["answer"]}
    return {**rows(0), **other, "retain": (np.arange(ROWS) % 4 == 1).astype(np.float32)}


def logp_of(params, tokens):
    return jax.nn.log_softmax(FORWARD.hidden(params, tokens) @ FORWARD.head(params))


def counted(weights, answer):
    """1 where a token's prediction counts, by the token that predicts it: [B, S - 1]."""
    return weights[:, :-1] * weights[:, 1:] * answer[:, 1:]


def expected_forget(name, student, base, given, setting):
    """The definition of METHODS.md on whole logits; a scalar that JAX differentiates."""
    forget = 1 - given["retain"]
    mask = counted(given["weights"], given["answer"]) * forget[:, None]
    labels = given["tokens"][:, 1:, None]

    def pick(logp):
        return jnp.take_along_axis(logp[:, :-1], labels, axis=-1)[..., 0]

    logp, base_logp = logp_of(student, given["tokens"]), logp_of(base, given["tokens"])
    y = pick(logp)
    real = mask.sum(axis=1) > 0

    def over_tokens(each, mask=mask):
        return (each * mask).sum() / mask.sum()

    def over_rows(each):
        return jnp.where(real, each, 0).sum() / real.sum()

    stop = jax.lax.stop_gradient
    if name == "grad_ascent":
        return over_tokens(y)
    if name == "npo":
        ratio = ((y - stop(pick(base_logp))) * mask).sum(axis=1)
        return over_rows(-2 / setting["beta"] * jax.nn.log_sigmoid(-setting["beta"] * ratio))
    if name == "dpo":
        alternative = counted(given["alternate_weights"], given["alternate_answer"]) * forget[:, None]
        at = given["alternate"][:, 1:, None]

        def other(params):
            each = jnp.take_along_axis(logp_of(params, given["alternate"])[:, :-1], at, axis=-1)[..., 0]
            return (each * alternative).sum(axis=1)

        ratio = other(student) - other(base) - ((y - pick(base_logp)) * mask).sum(axis=1)
        return over_rows(-2 / setting["beta"] * jax.nn.log_sigmoid(setting["beta"] * ratio))
    if name == "simnpo":
        mean = -(y * mask).sum(axis=1) / jnp.maximum(mask.sum(axis=1), 1)
        each = -2 / setting["beta"] * jax.nn.log_sigmoid(setting["beta"] * (mean - setting["delta"]))
        return 0.125 * over_rows(each)
    hot = jax.nn.one_hot(labels[..., 0], VOCABULARY)
    if name == "undial":
        target = jax.nn.softmax(base_logp[:, :-1] - setting["beta"] * hot)
        return over_tokens(-(target * logp[:, :-1]).sum(axis=-1))
    if name == "ceu":
        target = stop(jax.nn.softmax(jnp.where(hot > 0, -jnp.inf, logp[:, :-1])))
        return over_tokens(-(target * logp[:, :-1]).sum(axis=-1), mask * (jnp.cumsum(mask, axis=1) > 1))
    p = stop(jnp.exp(y))
    if name == "wga":
        return over_tokens(p ** setting["beta"] * y)
    return 0.1 * over_tokens(p ** setting["beta1"] * (1 - p) ** setting["beta2"] * y)


def expected_retain(kind, student, base, given):
    mask = counted(given["weights"], given["answer"]) * given["retain"][:, None]
    logp, base_logp = logp_of(student, given["tokens"])[:, :-1], logp_of(base, given["tokens"])[:, :-1]
    if kind == "nll":
        each = -jnp.take_along_axis(logp, given["tokens"][:, 1:, None], axis=-1)[..., 0]
    else:
        each = (jnp.exp(base_logp) * (base_logp - logp)).sum(axis=-1)
    return (each * mask).sum() / mask.sum()


def run(name, retain, mesh=(1, 1, 1), accumulate=1, changes=None):
    """Loss, retain loss and gradient of one step, and the compiled program; `changes` replace arrays of the batch."""
    mesh = mesh_of(*mesh)
    base = toy_params(1)
    student = near(base, 3)
    objective = METHODS[name](**SETTINGS.get(name, {}))
    optimizer = optax.chain(optax.trace(decay=0.0), optax.sgd(0.1))
    shardings = state_shardings(student, shardings_of(student, mesh), optimizer, mesh)
    options = StepOptions(tile=TILE, accumulate=accumulate)
    step = make_step(FORWARD, optimizer, objective, options, mesh, shardings, retain)
    frozen = Frozen(base=put(base, mesh) if objective.uses_base or (retain and retain.uses_base) else None)
    state = init_state(put(student, mesh), optimizer, shardings)
    given = put_batch(batch() | (changes or {}), mesh)
    program = step.lower(state, frozen, given).compile().as_text()
    state, metrics = step(state, frozen, given)
    return state.opt_state[0].trace, jax.device_get(metrics), program


@pytest.mark.parametrize("kind", ["kl", "nll"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_definition_on_whole_logits(name, kind):
    retain = Retain(0.7, kind)
    gradient, metrics, program = run(name, retain)
    base = toy_params(1)
    student, given = near(base, 3), batch()

    def loss(student):
        losses = (
            expected_forget(name, student, base, given, SETTINGS.get(name)),
            expected_retain(kind, student, base, given),
        )
        return losses[0] + retain.weight * losses[1], losses

    (_, losses), theirs = jax.jit(jax.value_and_grad(loss, has_aux=True))(student)
    np.testing.assert_allclose([metrics["loss"], metrics["retain_loss"]], losses, rtol=2e-5)
    assert np.abs(losses[0]) > 1e-3
    size = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(theirs))
    assert largest_difference(gradient, theirs) < 1e-5 * max(size, 1)
    tokens = ROWS * LENGTH
    assert not whole_logits(program, tokens), "an array of all tokens x vocabulary"
    assert whole_logits(program, TILE), "not even a tile's logits were found: the search sees nothing"


@pytest.mark.parametrize("name", NAMES)
def test_accumulated_on_eight_devices_equals_one(name):
    alone, spread = run(name, Retain(0.7)), run(name, Retain(0.7), (2, 4, 1), 2)
    assert largest_difference(alone[0], spread[0]) < 1e-5
    assert largest_difference(alone[1], spread[1]) < 1e-5


def test_without_a_retain_term_its_rows_train_nothing():
    _, metrics, _ = run("npo", None)
    assert set(metrics) == {"loss", "tokens", "grad_norm"}
    expected = expected_forget("npo", near(toy_params(1), 3), toy_params(1), batch(), SETTINGS["npo"])
    np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)


def test_every_method_has_a_description():
    for name, kind in METHODS.items():
        assert kind.name == name
        assert kind().describe()


@pytest.mark.parametrize("left_out", ["answer", "weights"])
@pytest.mark.parametrize("name", NAMES)
def test_a_batch_without_trained_positions_changes_nothing(name, left_out):
    """No answer counts, or every row is padding: loss and gradient are zero, never NaN."""
    nothing = {field: np.zeros_like(value) for field, value in batch().items() if field.endswith(left_out)}
    gradient, metrics, _ = run(name, Retain(0.7), changes=nothing)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradient))
    assert (metrics["loss"], metrics["grad_norm"]) == (0, 0)
