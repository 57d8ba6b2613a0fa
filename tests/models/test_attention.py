"""Attention a chunk of queries at a time beside softmax(QK)V on whole scores; what the chunks keep out of memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.models.attention import SCORES, Scope, attend


def whole(query, key, value, positions, window=None, soft_cap=None):
    """Compute the same from whole scores, every head with keys of its own, fp32."""
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, groups, axis=2) for x in (key, value))
    scores = jnp.einsum("bshe,bthe->bhst", query, key)
    scores = scores if soft_cap is None else soft_cap * jnp.tanh(scores / soft_cap)
    distance = np.asarray(positions)[:, :, None] - np.arange(key.shape[1])[None, None]
    mask = (distance >= 0) & (distance < (window or key.shape[1]))
    return jnp.einsum("bhst,bthe->bshe", jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf)), value)


def case(length, slots=None, heads=4, groups=2, width=8, rows=2):
    """Random query (scaled), key, value; the positions of queries that stand at the end of the slots."""
    rng = np.random.default_rng(length)
    slots = length if slots is None else slots
    query = rng.standard_normal((rows, length, heads, width), np.float32) * np.float32(width**-0.5)
    key, value = (rng.standard_normal((rows, slots, groups, width), np.float32) for _ in range(2))
    return query, key, value, np.broadcast_to(np.arange(slots - length, slots), (rows, length)).astype(np.int32)


@pytest.mark.parametrize(
    "sizes",
    [
        {"length": 1, "slots": 50},
        {"length": 96},
        {"length": 300, "rows": 1},  # parts that see what lies before them only, the last one short
        {"length": SCORES // 64, "heads": 64, "groups": 16},  # the most at a time
        {"length": SCORES // 64 + 3, "heads": 64, "groups": 4},  # queries cut in two, the last part filled up
        {"length": SCORES // 64 + 3, "heads": 64, "groups": 8},
        {"length": SCORES // 64 + 3, "heads": 64, "groups": 16},  # heads cut in two
        {"length": SCORES // 16 + 1, "slots": SCORES // 8, "heads": 64, "groups": 16},  # both
    ],
    ids=str,
)
def test_values_and_gradients_equal_those_of_whole_scores(sizes):
    *inputs, positions = case(**sizes)
    weights = np.random.default_rng(1).standard_normal(inputs[0].shape, np.float32)

    def run(function):
        return jax.jit(jax.value_and_grad(lambda *x: jnp.sum(function(*x, positions) * weights), (0, 1, 2)))(*inputs)

    np.testing.assert_allclose(attend(*inputs, positions), whole(*inputs, positions), atol=2e-6)
    (ours, our_gradients), (theirs, their_gradients) = run(attend), run(whole)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    for found, expected in zip(our_gradients, their_gradients, strict=True):
        assert np.abs(expected).max() > 0.5
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("windows", "layer", "soft_cap"),
    [((5,), None, None), ((None, 7), 1, None), ((None, 7), 0, 0.5), ((3, 500), 1, None), ((None,), None, 0.5)],
    ids=str,
)
@pytest.mark.parametrize(
    "sizes",
    [
        {"length": 140, "rows": 1},  # few scores, in two parts
        {"length": 1, "slots": 40},  # a cache
        {"length": SCORES // 64 + 3, "heads": 64, "groups": 4},  # many scores
        {"length": SCORES // 64 + 3, "heads": 64, "groups": 16},
    ],
    ids=str,
)
def test_windows_and_soft_caps_equal_those_of_whole_scores(sizes, windows, layer, soft_cap):
    *inputs, positions = case(**sizes)
    weights = np.random.default_rng(1).standard_normal(inputs[0].shape, np.float32)
    window = windows[layer or 0]

    def run(function):
        return jax.jit(jax.value_and_grad(lambda *x: jnp.sum(function(*x) * weights), (0, 1, 2)))(*inputs)

    ours = run(lambda *x: attend(*x, positions, Scope(windows, soft_cap), None if layer is None else jnp.int32(layer)))
    theirs = run(lambda *x: whole(*x, positions, window, soft_cap))
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-4)
    for found, expected in zip(ours[1], theirs[1], strict=True):
        assert np.abs(expected).max() > 0.1 or sizes["length"] == 1
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_window_that_holds_every_slot_is_none():
    assert Scope((4096, None)).within(512) == Scope()
    assert Scope((4096, 8, None)).within(512).windows == (None, 8, None)
    assert Scope((8,), 2.0).within(8) == Scope((None,), 2.0)


def test_bfloat16_sums_over_chunks_in_float32():
    length, heads = 8 * SCORES // 64, 64
    query, key, value, positions = case(length, rows=1, heads=heads, groups=1)
    query, key, value = (jnp.asarray(x, jnp.bfloat16) for x in (query, 0 * key, value))

    def total(value):
        return jnp.sum(attend(query, key, value, positions).astype(jnp.float32))

    # All keys are alike: query n gives each of the n slots it sees 1 / n. Slot 0 is seen by all.
    found = jax.grad(total)(value)[0, 0, 0, 0]
    expected = heads * sum(float(jnp.bfloat16(1 / (at + 1))) for at in range(length))
    assert found.dtype == jnp.bfloat16
    assert abs(float(found) - expected) < 2**-8 * expected


@pytest.mark.parametrize("groups", [4, 16])
def test_no_array_holds_whole_scores(groups):
    rows, heads, width = 2, 64, 4
    length = 4 * SCORES // heads
    *inputs, positions = case(length, rows=rows, heads=heads, groups=groups, width=width)
    program = jax.jit(jax.grad(lambda *x: jnp.sum(attend(*x, positions)), (0, 1, 2))).lower(*inputs).compile().as_text()
    sizes = [
        np.prod([int(size) for size in shape.split(",")]) for shape in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", program)
    ]
    most = rows * SCORES * length
    assert most in sizes, "not even a turn's scores were found: the search sees nothing"
    assert max(sizes) <= most


@pytest.mark.parametrize("sizes", [{"length": 200, "rows": 1}, {"length": 3, "slots": 40}], ids=str)
def test_bfloat16_of_few_scores_is_near_whole_float32_scores(sizes):
    *inputs, positions = case(width=128, heads=4, groups=2, **sizes)
    rounded = [jnp.asarray(x, jnp.bfloat16) for x in inputs]
    exact = [x.astype(jnp.float32) for x in rounded]
    weights = np.random.default_rng(1).standard_normal(inputs[0].shape, np.float32)

    def run(function, inputs):
        def total(*x):
            return jnp.sum(function(*x, positions).astype(jnp.float32) * weights)

        return jax.jit(jax.grad(total, (0, 1, 2)))(*inputs)

    ulp = 2.0**-8  # of bf16, relative
    found, expected = attend(*rounded, positions), whole(*exact, positions)
    assert found.dtype == jnp.bfloat16
    assert np.abs(found.astype(jnp.float32) - expected).max() < 2 * ulp * np.abs(expected).max()
    for found, expected in zip(run(attend, rounded), run(whole, exact), strict=True):
        assert np.linalg.norm(found.astype(jnp.float32) - expected) < 2 * ulp * np.linalg.norm(expected)
