"""Values of the schedule, and AdamW compared with torch's and with a numpy implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from jaxforget.train.optimizer import linear_schedule, make_optimizer
from tests.train.tiny import adamw, largest_difference

PAPER = {"b1": 0.9, "b2": 0.98, "eps": 1e-8}
STEPS = 5


def test_schedule_without_warmup():
    schedule = linear_schedule(1e-3, 0, 4)
    np.testing.assert_allclose([schedule(step) for step in range(6)], [1e-3, 7.5e-4, 5e-4, 2.5e-4, 0, 0], rtol=1e-6)


def test_schedule_with_warmup():
    schedule = linear_schedule(1e-3, 2, 6)
    wanted = [0, 5e-4, 1e-3, 7.5e-4, 5e-4, 2.5e-4, 0, 0]
    np.testing.assert_allclose([schedule(step) for step in range(8)], wanted, rtol=1e-6)


def test_schedule_of_one_step_is_not_empty():
    assert float(linear_schedule(1e-3, 0, 1)(0)) == np.float32(1e-3)


def inputs():
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((4, 3), np.float32), "b": rng.standard_normal(7, np.float32)}
    gradients = [jax.tree.map(lambda p: rng.standard_normal(p.shape, np.float32), params) for _ in range(STEPS)]
    return params, gradients


def follow(optimizer, params, gradients):
    """Return the parameters after all steps and the last state."""

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = step(params, state, gradient)
    return params, state


def follow_torch(params, gradients, schedule, decay, clip):
    leaves = [torch.nn.Parameter(torch.tensor(leaf)) for leaf in jax.tree.leaves(params)]
    betas = (PAPER["b1"], PAPER["b2"])
    optimizer = torch.optim.AdamW(leaves, lr=1.0, betas=betas, eps=PAPER["eps"], weight_decay=decay)
    for step, gradient in enumerate(gradients):
        for leaf, value in zip(leaves, jax.tree.leaves(gradient), strict=True):
            leaf.grad = torch.tensor(value)
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(leaves, clip)
        optimizer.param_groups[0]["lr"] = float(schedule(step))
        optimizer.step()
    return jax.tree.unflatten(jax.tree.structure(params), [leaf.detach().numpy() for leaf in leaves])


@pytest.mark.parametrize(("decay", "clip"), [(0.0, None), (0.1, None), (0.0, 0.5)], ids=["plain", "decay", "clipped"])
def test_equals_torch(decay, clip):
    params, gradients = inputs()
    schedule = linear_schedule(1e-2, 1, STEPS + 1)
    optimizer = make_optimizer(schedule, **PAPER, weight_decay=decay, clip_norm=clip, moment_dtype="float32")
    ours, _ = follow(optimizer, params, gradients)
    theirs = follow_torch(params, gradients, schedule, decay, clip)
    assert largest_difference(ours, theirs) < 1e-6
    assert largest_difference(ours, params) > 1e-2


def test_equals_numpy():
    params, gradients = inputs()
    optimizer = make_optimizer(
        optax.constant_schedule(1e-2), **PAPER, weight_decay=0.1, clip_norm=None, moment_dtype="float32"
    )
    update, theirs = adamw(1e-2, *PAPER.values(), 0.1), params
    for gradient in gradients:
        theirs = update(theirs, gradient)
    assert largest_difference(follow(optimizer, params, gradients)[0], theirs) < 1e-6


def test_updates_far_below_a_weights_bfloat16_spacing_survive():
    # METHOD.md section 6: a bfloat16 weight would not change at the paper's rate.
    params = {"w": jnp.full(8, 0.02, jnp.float32)}
    optimizer = make_optimizer(
        linear_schedule(1e-6, 0, 200), **PAPER, weight_decay=0.0, clip_norm=None, moment_dtype="bfloat16"
    )
    after, _ = follow(optimizer, params, [{"w": np.ones(8, np.float32)}] * STEPS)
    np.testing.assert_allclose(params["w"] - after["w"], STEPS * 1e-6, rtol=0.02)
    assert (after["w"].astype(jnp.bfloat16) == params["w"].astype(jnp.bfloat16)).all()


def test_moments_have_the_asked_dtype():
    params, gradients = inputs()
    optimizer = make_optimizer(
        optax.constant_schedule(1e-2), **PAPER, weight_decay=0.0, clip_norm=None, moment_dtype="bfloat16"
    )
    after, state = follow(optimizer, params, gradients)
    assert {leaf.dtype for leaf in jax.tree.leaves(state[0].mu)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}
    exact = make_optimizer(
        optax.constant_schedule(1e-2), **PAPER, weight_decay=0.0, clip_norm=None, moment_dtype="float32"
    )
    whole, state = follow(exact, params, gradients)
    assert {leaf.dtype for leaf in jax.tree.leaves((state[0].mu, state[0].nu))} == {jnp.dtype("float32")}
    assert 0 < largest_difference(after, whole) < 0.05 * largest_difference(whole, params)
