"""A trace of a small function with the method's scopes: every part is found, and loops are not counted twice."""

import time

import jax
import jax.numpy as jnp
import pytest

from jaxforget.tpu.profile import trace
from jaxforget.tpu.trace import part_of, read_breakdown


@pytest.mark.parametrize(
    ("opcode", "path", "part"),
    [
        ("fusion", "jit(step)/base/Llama.hidden/dot_general", "base"),
        ("fusion", "jit(step)/reinforced/Llama.hidden/while/body/database/add", "reinforced"),
        ("dot", "jit(step)/jvp(student)/Llama.hidden/while/body/dot_general", "student forward"),
        ("dot", "jit(step)/while/body/jvp(student)/dot_general", "student forward"),
        ("dot", "jit(step)/transpose(jvp(student))/checkpoint/rematted_computation/mul", "student backward"),
        ("fusion", "jit(step)/jvp(tiles)/shard_map/while/body/exp", "tiles"),
        ("fusion", "jit(step)/transpose(jvp(tiles))/mul", "tiles"),
        ("fusion", "jit(step)/optimizer/integer_pow", "optimizer"),
        ("all-gather-start", "jit(step)/base/Llama.hidden/dot_general", "collectives"),
        ("reduce-scatter", "", "collectives"),
        ("fusion", "jit(step)/cumsum", "other"),
        ("copy", "", "unattributed"),
    ],
)
def test_a_source_names_its_part(opcode, path, part):
    assert part_of(opcode, path) == part


def test_parts_of_a_traced_program(tmp_path):
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
    compiled = step.lower(w, x).compile()
    with trace(tmp_path) as written:
        began = time.perf_counter()
        for _ in range(3):
            compiled(w, x).block_until_ready()
        jax.jit(lambda x: x @ x @ x)(x).block_until_ready()  # another program, which does not count
        wall = time.perf_counter() - began
    found = read_breakdown(written[0], compiled.as_text())
    used = {part for part, seconds in found.seconds.items() if seconds}
    assert {"base", "student forward", "student backward", "optimizer"} <= used
    assert not {"reinforced", "tiles", "collectives"} & used
    # Sixteen products against four; had the loops been counted beside their bodies, the sum would exceed the wall.
    assert found.seconds["base"] > found.seconds["student forward"]
    assert 0 < sum(found.seconds.values()) < wall * 8
    assert found.longest[0][1] in ("base", "student backward")
    assert [x[0] for x in found.longest] == sorted((x[0] for x in found.longest), reverse=True)
