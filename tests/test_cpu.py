"""The expressions for CPUs give the same results as the plain ones."""

import os
import subprocess
import sys

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


@pytest.mark.parametrize(("setting", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_memory_is_kept_between_allocations(setting, kept):
    """Count the pages that the system has to supply when 64 MiB are allocated, written and freed four times more."""
    code = """
import ctypes, resource
from jaxforget.cpu import keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
def use():
    place = libc.malloc(64 << 20)
    ctypes.memset(place, 1, 64 << 20)
    libc.free(ctypes.c_void_p(place))
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run([sys.executable, "-c", code], env=clean | setting, capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 1000) == kept
