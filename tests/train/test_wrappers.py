"""Wrappers of a method's gradient beside their definitions on whole logits, differentiated by JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxforget.sharding import put_batch
from jaxforget.train.objectives import METHODS, NextToken, Retain
from jaxforget.train.state import init_state, state_shardings
from jaxforget.train.step import StepOptions, make_loss, make_step
from jaxforget.train.types import Frozen
from jaxforget.train.wrappers import Wrappers, invariance_penalty
from tests.train.objectives.test_methods import FORWARD, SETTINGS, batch, expected_forget, expected_retain
from tests.train.tiny import (
    PLAIN,
    TIED,
    TILE,
    largest_difference,
    llama_forward,
    llama_params,
    make_batch,
    mesh_of,
    near,
    put,
    shardings_of,
    toy_params,
)

RHO = 0.5  # of weights of norm 60: far enough that the gradient there is another one


def computed(name, wrappers, retain, mesh=(1, 1, 1), accumulate=1):
    """Losses and gradients of `make_loss` at a student near base."""
    mesh = mesh_of(*mesh)
    base = toy_params(1)
    objective = METHODS[name](**SETTINGS.get(name, {}))
    options = StepOptions(tile=TILE, accumulate=accumulate)
    loss = jax.jit(make_loss(FORWARD, objective, options, mesh, retain, wrappers))
    losses, gradients, _ = loss(put(near(base, 3), mesh), Frozen(base=put(base, mesh)), put_batch(batch(), mesh))
    return np.asarray(losses), gradients


@pytest.mark.parametrize("kind", [None, "kl", "nll"])
@pytest.mark.parametrize("name", ["grad_ascent", "npo", "dpo", "simnpo", "undial", "wga"])
def test_sam_takes_the_forget_gradient_at_a_distance_and_the_retain_gradient_here(name, kind):
    base = toy_params(1)
    student, given = near(base, 3), batch()

    def forget(params):
        return expected_forget(name, params, base, given, SETTINGS.get(name, {}))

    loss, direction = jax.value_and_grad(forget)(student)
    norm = optax.tree.norm(direction)
    expected = jax.grad(forget)(jax.tree.map(lambda p, d: p + RHO * d / norm, student, direction))
    size = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(direction))
    assert largest_difference(expected, direction) > 0.05 * size, "too near for a test"
    losses, gradients = computed(name, Wrappers(sam=RHO), None if kind is None else Retain(0.7, kind))
    np.testing.assert_allclose(losses[0], loss, rtol=2e-5)
    if kind is not None:
        retained, more = jax.value_and_grad(lambda p: 0.7 * expected_retain(kind, p, base, given))(student)
        expected = jax.tree.map(jnp.add, expected, more)
        np.testing.assert_allclose(losses[1], retained, rtol=2e-5)
    assert largest_difference(gradients, expected) < 2e-5 * max(size, 1)


@pytest.mark.parametrize(("mesh", "accumulate"), [((1, 1, 1), 4), ((2, 2, 2), 1), ((1, 4, 1), 2)])
def test_sam_is_that_of_the_whole_batch_under_microbatches_and_meshes(devices, mesh, accumulate):
    retain = Retain(0.7, "kl")
    one = computed("npo", Wrappers(sam=RHO), retain)
    other = computed("npo", Wrappers(sam=RHO), retain, mesh, accumulate)
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    assert largest_difference(one[1], other[1]) < 2e-5


def test_a_distance_of_0_is_the_plain_step():
    retain = Retain(0.7, "kl")
    jax.tree.map(
        np.testing.assert_array_equal,
        computed("npo", Wrappers(sam=0.0), retain),
        computed("npo", None, retain),
    )


def unrelated() -> dict[str, np.ndarray]:
    """Rows of unrelated text, with padding."""
    given = make_batch(5)
    return {name: given[name] for name in ("tokens", "weights")}


def plain_loss(forward, params, given):
    """The mean next-token loss on whole logits."""
    logp = jax.nn.log_softmax(forward.hidden(params, given["tokens"]) @ forward.head(params))[:, :-1]
    picked = jnp.take_along_axis(logp, given["tokens"][:, 1:, None], axis=-1)[..., 0]
    mask = given["weights"][:, :-1] * given["weights"][:, 1:]
    return -(picked * mask).sum() / mask.sum()


def penalised(forward, params, mesh, accumulate):
    """The penalty and its gradient by the step's own tiles."""
    loss = make_loss(forward, NextToken(), StepOptions(tile=TILE, accumulate=accumulate), mesh)
    given = put_batch(unrelated(), mesh)
    return jax.jit(lambda p: invariance_penalty(lambda p: loss(p, Frozen(), given)[1], p, 0.1))(put(params, mesh))


@functools.cache
def exact_penalty(config):
    """The penalty and its gradient, differentiated as it is defined, on whole logits."""
    dense = llama_forward(config, mesh_of(), "none")

    def penalty(params):
        scaled = lambda w: plain_loss(dense, jax.tree.map(lambda p: w * p, params), unrelated())  # noqa: E731
        return 0.1 * jax.grad(scaled)(1.0) ** 2

    return jax.jit(jax.value_and_grad(penalty))(put(llama_params(config, 0), mesh_of()))


@pytest.mark.parametrize(
    ("remat", "mesh", "accumulate"), [("none", (1, 1, 1), 1), ("full", (2, 2, 2), 2), ("dots", (1, 4, 1), 1)]
)
@pytest.mark.parametrize("config", [PLAIN, TIED], ids=["plain", "tied"])
def test_the_invariance_penalty_and_its_gradient_are_exact(devices, config, remat, mesh, accumulate):
    value, expected = exact_penalty(config)
    forward = llama_forward(config, mesh_of(*mesh), remat)
    found, gradient = penalised(forward, llama_params(config, 0), mesh_of(*mesh), accumulate)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    assert float(value) > 0.1
    size = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest_difference(gradient, expected) < 2e-5 * size


def test_a_step_adds_the_penalty_to_the_methods_gradient(devices):
    mesh, base = mesh_of(1, 2, 1), toy_params(1)
    student = near(base, 3)
    optimizer = optax.chain(optax.trace(decay=0.0), optax.sgd(0.1))
    shardings = state_shardings(student, shardings_of(student, mesh), optimizer, mesh)
    given = put_batch(batch() | {f"unrelated_{name}": value for name, value in unrelated().items()}, mesh)
    found = {}
    for weight in (0.0, 0.05):
        options = StepOptions(tile=TILE, accumulate=2)
        step = make_step(FORWARD, optimizer, METHODS["npo"](), options, mesh, shardings, None, Wrappers(ilu=weight))
        frozen = Frozen(base=put(base, mesh))
        state, metrics = step(init_state(put(student, mesh), optimizer, shardings), frozen, given)
        found[weight] = (state.opt_state[0].trace, jax.device_get(metrics))

    def penalty(params):
        scaled = lambda w: plain_loss(FORWARD, jax.tree.map(lambda p: w * p, params), unrelated())  # noqa: E731
        return 0.05 * jax.grad(scaled)(1.0) ** 2

    value, expected = jax.value_and_grad(penalty)(student)
    np.testing.assert_allclose(found[0.05][1]["invariance_penalty"], value, rtol=1e-5)
    assert "invariance_penalty" not in found[0.0][1]
    difference = jax.tree.map(lambda a, b: np.asarray(a) - np.asarray(b), found[0.05][0], found[0.0][0])
    size = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert largest_difference(difference, expected) < 5e-5 * max(size, 1)
