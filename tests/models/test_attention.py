"""Attention a chunk of queries at a time beside softmax(QK)V on whole scores; what the chunks keep out of memory."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.models.attention import QUERIES, attend


def whole(query, key, value, positions):
    """The same from whole scores, every head with keys of its own, fp32."""
    groups = query.shape[2] // key.shape[2]
    key, value = (jnp.repeat(x, groups, axis=2) for x in (key, value))
    scores = jnp.einsum("bshe,bthe->bhst", query, key) / np.sqrt(key.shape[-1])
    mask = np.arange(key.shape[1])[None, None] <= np.asarray(positions)[:, :, None]
    return jnp.einsum("bhst,bthe->bshe", jax.nn.softmax(jnp.where(mask[:, None], scores, -jnp.inf)), value)


def case(length, slots=None, heads=4, groups=2, width=8, rows=2):
    """Random query, key, value; the positions of queries that stand at the end of the slots."""
    rng = np.random.default_rng(length)
    slots = length if slots is None else slots
    query = rng.standard_normal((rows, length, heads, width), np.float32)
    key, value = (rng.standard_normal((rows, slots, groups, width), np.float32) for _ in range(2))
    return query, key, value, np.broadcast_to(np.arange(slots - length, slots), (rows, length)).astype(np.int32)


@pytest.mark.parametrize(
    "sizes",
    [
        {"length": 1, "slots": 50},
        {"length": 96},
        {"length": QUERIES, "groups": 4},
        {"length": 2 * QUERIES},
        {"length": 2 * QUERIES + 3, "groups": 1},  # cut into three, the last filled up
        {"length": QUERIES + 1, "slots": 3 * QUERIES},
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


def test_bfloat16_sums_over_chunks_in_float32():
    *inputs, positions = case(length=8 * QUERIES, rows=1)
    narrow = [jnp.asarray(x, jnp.bfloat16) for x in inputs]
    # One slot that every query sees alike: its gradient is a sum of as many numbers as there are queries.
    narrow[1] = narrow[1].at[:].set(0)

    def gradient(value):
        return jnp.sum(attend(narrow[0], narrow[1], value, positions).astype(jnp.float32))

    found = jax.grad(gradient)(narrow[2])[0, 0, 0, 0]
    expected = 2 * sum(float(jnp.bfloat16(1 / (at + 1))) for at in range(8 * QUERIES))  # two heads share it
    assert found.dtype == jnp.bfloat16
    assert abs(float(found) - expected) < 2**-8 * expected


def test_no_array_holds_whole_scores():
    length, rows, heads = 4 * QUERIES, 2, 4
    *inputs, positions = case(length, rows=rows, heads=heads)
    program = jax.jit(jax.grad(lambda *x: jnp.sum(attend(*x, positions)), (0, 1, 2))).lower(*inputs).compile().as_text()
    sizes = [
        np.prod([int(size) for size in shape.split(",")]) for shape in re.findall(r"\b[a-z]+\d+\[([\d,]+)\]", program)
    ]
    chunk = rows * heads * QUERIES * length
    assert chunk in sizes, "not even a chunk's scores were found: the search sees nothing"
    assert max(sizes) <= chunk
