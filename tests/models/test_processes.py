"""Two processes of four devices each: every one reads its half, the first one writes, both generate alike."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from jaxforget.lm.generate import generate
from jaxforget.models.folders import read_config
from jaxforget.models.load import load_params
from jaxforget.models.transformer import Transformer
from tests.children import without_torch
from tests.compiler import xla_flags
from tests.models.tiny import save_tiny
from tests.models.worker import NEW, PROMPTS


def test_two_processes(tmp_path):
    save_tiny(tmp_path / "in")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    environment = without_torch(os.environ | {"XLA_FLAGS": xla_flags(4), "JAX_PLATFORMS": "cpu"})
    command = [sys.executable, "-m", "tests.models.worker"]
    started = [
        subprocess.Popen(
            [*command, str(process), port, str(tmp_path / "in"), str(tmp_path / "out")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        for process in range(2)
    ]
    try:
        ended = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()  # if one fails, the other would wait for it
    assert [process.returncode for process in started] == [0, 0], ended[0][1][-2000:] + ended[1][1][-2000:]
    found = [json.loads(out.splitlines()[-1]) for out, _ in ended]

    # Everything but the replicated norms is halved.
    assert all(0.5 <= each["share"] < 0.51 for each in found)
    assert all(each["written"] for each in found)
    config, _ = read_config(tmp_path / "in")
    before, after = (load_params(tmp_path / name, config, dtype="float32") for name in ("in", "out"))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    alone = generate(Transformer(config), before, PROMPTS, max_new_tokens=NEW)
    assert [each["made"] for each in found] == [alone, alone]
