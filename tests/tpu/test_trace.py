"""A trace of a small function with the method's scopes: every part is found, and loops are not counted twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxforget.tpu.trace import part_of
from tests.children import without_torch

ROOT = Path(__file__).parents[2]


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
    # Other tests have this process load the TPU compiler, beside which tracing crashes.
    command = [sys.executable, "-m", "tests.tpu.traced", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT, env=without_torch(os.environ))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    used = {part for part, seconds in found["seconds"].items() if seconds}
    assert {"base", "student forward", "student backward", "optimizer"} <= used
    assert not {"reinforced", "tiles", "collectives"} & used
    # Sixteen products against four; had the loops been counted beside their bodies, the sum would exceed the wall.
    assert found["seconds"]["base"] > found["seconds"]["student forward"]
    assert 0 < sum(found["seconds"].values()) < found["wall"] * 8
    assert found["longest"][0][1] in ("base", "student backward")
    assert [x[0] for x in found["longest"]] == sorted((x[0] for x in found["longest"]), reverse=True)
