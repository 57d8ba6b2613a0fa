"""Wrappers of a method's gradient beside their definitions on whole logits, differentiated by JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxforget.sharding import put_batch
from jaxforget.train.objectives import METHODS, Retain
from jaxforget.train.step import StepOptions, make_loss
from jaxforget.train.types import Frozen
from jaxforget.train.wrappers import Wrappers
from tests.train.objectives.test_methods import FORWARD, SETTINGS, batch, expected_forget, expected_retain
from tests.train.tiny import TILE, largest_difference, mesh_of, near, put, toy_params

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
