"""The expressions for CPUs give the same results as the plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.cpu import argmax, transposed


@pytest.mark.parametrize("words", [1, 127, 128, 640, 1000])
def test_the_first_of_the_highest(words):
    rng = np.random.default_rng(words)
    logits = rng.integers(-3, 4, (50, words)).astype(np.float32)  # with few values, so that many tokens tie
    logits[0] = -np.inf
    logits[1, words // 2] = np.inf
    found = jax.jit(argmax)(logits)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, np.argmax(logits, axis=-1))
    found = jax.jit(argmax)(np.full((2, words), np.nan, np.float32))
    assert ((found >= 0) & (found < words)).all()


def test_turned():
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(jax.jit(transposed)(x), x.T)


@pytest.mark.parametrize("function", [argmax, transposed])
@pytest.mark.parametrize(("platform", "told"), [("cpu", True), ("tpu", False), ("cuda", False)])
def test_only_a_cpu_is_told(function, platform, told):
    x = jax.ShapeDtypeStruct((8, 256), jnp.float32)
    program = jax.jit(function).trace(x).lower(lowering_platforms=(platform,)).as_text()
    assert ("optimization_barrier" in program) == told
