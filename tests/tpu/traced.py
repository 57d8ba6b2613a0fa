"""Traces a small program and prints what is read of it: `traced.py FOLDER`, in a process of its own (test_trace.py)."""

import dataclasses
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxforget.tpu.compiler import compile_with_text
from jaxforget.tpu.profile import trace
from jaxforget.tpu.trace import read_breakdown


def main(folder: Path) -> None:
    def student(w, x):
        with jax.named_scope("student"):
            return jnp.sum(jax.lax.fori_loop(0, 4, lambda _, x: jnp.tanh(x @ w), x))

    @jax.jit
    def step(w, x):
        with jax.named_scope("base"):
            x = jax.lax.fori_loop(0, 16, lambda _, x: jnp.tanh(x @ w), x)
        gradient = jax.grad(student)(w, x)
        with jax.named_scope("optimizer"):
            return w - gradient

    w = x = jnp.full((512, 512), 1e-3)
    compiled, text = compile_with_text(step.lower(w, x))
    with trace(folder) as written:
        began = time.perf_counter()
        for _ in range(3):
            compiled(w, x).block_until_ready()
        jax.jit(lambda x: x @ x @ x)(x).block_until_ready()  # another program, which does not count
        wall = time.perf_counter() - began
    found = read_breakdown(written[0], text)
    print(json.dumps({**dataclasses.asdict(found), "wall": wall}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
