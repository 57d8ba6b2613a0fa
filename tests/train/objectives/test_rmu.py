"""RMU beside its definition on the hidden states that every layer reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxforget.models.transformer import Transformer
from jaxforget.sharding import put_batch
from jaxforget.train.objectives import METHODS, Retain
from jaxforget.train.state import init_state, state_shardings
from jaxforget.train.step import StepOptions, make_step
from jaxforget.train.types import Frozen
from tests.train.objectives.test_methods import rows
from tests.train.tiny import (
    PLAIN,
    ROWS,
    TILE,
    largest_difference,
    llama_forward,
    llama_params,
    mesh_of,
    near,
    put,
    shardings_of,
)

LAYER, SCALE = 1, 3.0


def batch():
    return {**rows(0), "retain": (np.arange(ROWS) % 4 == 1).astype(np.float32)}


def states(params, tokens):
    """Outputs after `LAYER` layers, as the whole model reports them."""
    module = Transformer(PLAIN)
    _, kept = module.apply({"params": params}, tokens, method="hidden", mutable=["intermediates"])
    return kept["intermediates"]["layers"]["output"][0][LAYER - 1]


def run(retain, near_layers, mesh=(1, 1, 1), accumulate=1):
    mesh = mesh_of(*mesh)
    base = llama_params(PLAIN, 1)
    student = near(base, 3)
    objective = METHODS["rmu"](layer=LAYER, scale=SCALE, near=near_layers)
    optimizer = optax.chain(optax.trace(decay=0.0), optax.sgd(0.1))
    shardings = state_shardings(student, shardings_of(student, mesh), optimizer, mesh)
    step = make_step(
        llama_forward(PLAIN, mesh, "none"),
        optimizer,
        objective,
        StepOptions(tile=TILE, accumulate=accumulate),
        mesh,
        shardings,
        retain,
    )
    frozen = Frozen(base=put(base, mesh) if retain is not None and retain.uses_base else None)
    state, metrics = step(init_state(put(student, mesh), optimizer, shardings), frozen, put_batch(batch(), mesh))
    return state.opt_state[0].trace, jax.device_get(metrics)


@pytest.mark.parametrize("kind", [None, "states", "nll"])
def test_a_step_is_the_definition(kind):
    retain = None if kind is None else Retain(0.5, kind)
    gradient, metrics = run(retain, near_layers=0)
    base = llama_params(PLAIN, 1)
    student, given = near(base, 3), batch()
    target = METHODS["rmu"](scale=SCALE).target(PLAIN.hidden_size)
    np.testing.assert_allclose(jnp.linalg.norm(target), SCALE, rtol=1e-5)
    used = given["weights"] * given["answer"]
    forget, kept = used * (1 - given["retain"][:, None]), used * given["retain"][:, None]

    def loss(student):
        ours = states(student, given["tokens"])
        far = (jnp.square(ours - target).mean(axis=-1) * forget).sum() / forget.sum()
        if kind is None:
            return far, (far,)
        if kind == "nll":
            logp = jax.nn.log_softmax(Transformer(PLAIN).apply({"params": student}, given["tokens"]))[:, :-1]
            mask = given["weights"][:, :-1] * kept[:, 1:]
            held = -(jnp.take_along_axis(logp, given["tokens"][:, 1:, None], axis=-1)[..., 0] * mask).sum() / mask.sum()
        else:
            distance = jnp.square(ours - states(base, given["tokens"])).mean(axis=-1)
            held = (distance * kept).sum() / kept.sum()
        return far + 0.5 * held, (far, held)

    (_, losses), theirs = jax.jit(jax.value_and_grad(loss, has_aux=True))(student)
    np.testing.assert_allclose(metrics["loss"], losses[0], rtol=1e-5)
    if kind is not None:
        np.testing.assert_allclose(metrics["retain_loss"], losses[1], rtol=1e-5)
    assert largest_difference(gradient, theirs) < 2e-5


def test_only_the_layers_near_it_train():
    gradient, _ = run(Retain(0.5, "nll"), near_layers=1)
    everything, _ = run(Retain(0.5, "nll"), near_layers=0)
    assert not np.asarray(gradient["embed"]).any()
    assert np.asarray(everything["embed"]).any()
    kernel = np.asarray(gradient["layers"]["q"]["kernel"])
    assert kernel[0].any()
    assert not kernel[1].any(), "the second layer is behind the first"


def test_accumulated_on_eight_devices_equals_one():
    alone, spread = run(Retain(0.5, "states"), 0), run(Retain(0.5, "states"), 0, (2, 4, 1), 2)
    assert largest_difference(alone[0], spread[0]) < 1e-5
    assert largest_difference(alone[1], spread[1]) < 1e-5
