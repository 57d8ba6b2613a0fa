"""Counted products against the same counted by hand, on CPU devices: nothing is compiled."""

import math

import jax
import jax.numpy as jnp
import pytest

from jaxforget.models.layout import leaves, parameter_count
from jaxforget.models.published import read_shape
from jaxforget.models.splash import SplashAttention
from jaxforget.sharding import make_mesh
from jaxforget.stages.estimate import model_flops_per_token, parameters_run
from jaxforget.tpu.flops import product_flops
from jaxforget.tpu.programs import batch_widths, make_step
from tests.tpu.tiny import HEAD, HEADS, LAYERS, LENGTH, PRODUCTS, WIDTH, WORDS, model_folder, tiny_config

LAYER = sum(PRODUCTS.values())


def counted(config, name: str) -> float:
    """FLOP a token of a step's products."""
    llama, _ = read_shape(config.model.folder)
    step = make_step(config, llama, make_mesh(), batch_widths(config), name)
    return product_flops(step.trace().jaxpr, step.trips) / step.tokens


def attention(length: int) -> int:
    """FLOP a token of one layer's scores and weighted values over `length` positions, forward."""
    return 2 * (2 * length * HEADS * HEAD)


def forward(tokens: int, length: int) -> float:
    """FLOP of all layers a token of the block, where `tokens` of `length` run for each block."""
    return LAYERS * (2 * LAYER + attention(length)) * tokens / LENGTH


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("flops") / "model")


@pytest.mark.parametrize("remat", ["none", "dots", "mlp", "full"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_reinforce_costs_three_passes_and_what_remat_repeats(model, remat, accumulate):
    config = tiny_config(model, f"model.remat={remat}", f"reinforce.accumulate={accumulate}")
    # So few scores are kept: attention repeats nothing of its own accord.
    passes = 3 * forward(LENGTH, LENGTH)
    scores = LAYERS * attention(LENGTH) / 2
    again = {
        "none": 0,
        "dots": scores,
        "mlp": scores + LAYERS * 2 * (PRODUCTS["gate"] + PRODUCTS["up"]),
        # A layer's last product need not be repeated to differentiate it.
        "full": forward(LENGTH, LENGTH) - LAYERS * 2 * PRODUCTS["down"],
    }
    passes += again[remat]
    assert counted(config, "reinforce") == passes + 3 * 2 * WIDTH * WORDS


def test_undo_costs_a_forward_pass_more_than_reinforce(model, tmp_path):
    config = tiny_config(model, "model.remat=none", "undo.alpha=0.3", f"retain.path={tmp_path}")
    # Both models project to the vocabulary; the head's own gradient makes the fourth product.
    assert counted(config, "undo") == 4 * forward(LENGTH, LENGTH) + 4 * 2 * WIDTH * WORDS
    assert model_flops_per_token(config, "undo", 1) == 2 + 6


def test_forget_costs_two_more_passes_one_of_them_over_the_translated_tokens(model):
    config = tiny_config(model, "model.remat=none")
    translated = batch_widths(config).translated
    assert translated == 48
    teachers = forward(translated, translated) + forward(LENGTH, LENGTH) + 2 * 2 * WIDTH * WORDS
    assert counted(config, "forget") == counted(config, "reinforce") + teachers


def test_scoring_costs_one_pass(model):
    assert counted(tiny_config(model), "score") == forward(LENGTH, LENGTH) + 2 * WIDTH * WORDS


def test_a_loss_on_hidden_states_counts_the_layers_before_them(model):
    config = tiny_config(model, "method=rmu", "objective.layer=1", "model.remat=none")
    shape, _ = read_shape(config.model.folder)
    layers = sum(math.prod(leaf.shape) for leaf in leaves(shape) if leaf.stacked)
    found = parameters_run(config, "forget", shape)
    assert found == layers // shape.num_hidden_layers
    assert counted(config, "forget") == 3 * forward(LENGTH, LENGTH) / LAYERS
    for overrides in (("retain.path=x", "retain.weight=1", "retain.rows=8"), ("retain.weight=0",)):
        kept = tiny_config(model, "method=rmu", "objective.layer=1", *overrides)
        assert (parameters_run(kept, "forget", shape) == found) is (overrides == ("retain.weight=0",))
    assert parameters_run(config, "score", shape) == parameter_count(shape)


@pytest.mark.parametrize(
    ("overrides", "step", "times"),
    [
        ((), "reinforce", 6),
        ((), "forget", 10),
        (("targets.cache=true",), "forget", 6),
        (("method=npo",), "forget", 8),
        (("method=simnpo",), "forget", 6),
        (("method=dpo",), "forget", 16),  # the alternative answers are rows of their own, for base too
        (("targets.cache=true", "retain.path=x", "retain.weight=1", "retain.rows=16"), "forget", 8),
        (("reinforce.weights=lora",), "reinforce", 4),
        (("forget.weights=lora",), "forget", 8),
        ((), "score", 2),
        ((), "decode", 2),
    ],
)
def test_model_flops_follow_the_convention(model, overrides, step, times):
    assert model_flops_per_token(tiny_config(model, *overrides), step, 1000) == times * 1000


def test_a_kernel_costs_the_tiles_that_it_runs():
    """Two products over pairs of query and slot, three tiles by three of which six are run, on two devices."""
    rows, length, heads, width = 4, 1536, 2, 128
    query = jnp.zeros((rows, length, heads, width), jnp.bfloat16)
    splash = SplashAttention(make_mesh(devices=jax.devices()[:2]), interpret=True)
    positions = jnp.zeros((rows, length), jnp.int32)
    product = rows * heads * (2 * length * length * width) * 6 // 9
    forward = jax.make_jaxpr(splash)(query, query, query, positions)
    assert product_flops(forward.jaxpr, 1000) == 2 * product
    # Backward: scores, and probabilities' gradients, once for queries and once for keys and values; then those three.
    # Beside the kernels, outputs times their gradients.
    back = jax.make_jaxpr(jax.grad(lambda *x: jnp.sum(splash(*x, positions)), (0, 1, 2)))(query, query, query)
    assert product_flops(back.jaxpr, 1000) == (2 + 4 + 3) * product + rows * heads * 2 * length * width
