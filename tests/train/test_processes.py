"""Two processes of two devices: same scores and training as one process; SIGTERM to one stops both at one step."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxforget.train.metrics import read_records
from tests.children import without_torch
from tests.compiler import xla_flags
from tests.evals.asking import placed, scorer
from tests.train.looping import abstract, batches, compiled, fresh, opened
from tests.train.tiny import largest_difference
from tests.train.worker import ROWS, TERMINATED


def test_two_processes(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    settings = {
        "XLA_FLAGS": xla_flags(2),
        "JAX_PLATFORMS": "cpu",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
    }
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.train.worker", str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=without_torch(os.environ | settings | {"JAX_PROCESS_ID": str(process)}),
            cwd=Path(__file__).parents[2],
        )
        for process in range(2)
    ]
    try:
        ended = [process.communicate(timeout=240) for process in started]
    finally:
        for process in started:
            process.kill()  # after a failure of one, the other would wait for it
    assert [process.returncode for process in started] == [0, 0], ended[0][1][-2000:] + ended[1][1][-2000:]
    found = [json.loads(out.splitlines()[-1]) for out, _ in ended]
    assert found[0] == found[1]

    for ours, alone in zip(found[0]["scores"], scorer(fsdp=1).log_probabilities(placed(1), ROWS), strict=True):
        np.testing.assert_allclose(ours, alone, atol=1e-5)

    stopped = re.fullmatch(r"forget: stopped by SIGTERM, saved at step (\d+); .*", found[0]["told"])
    assert stopped, found[0]["told"]
    step = int(stopped[1])
    assert step >= TERMINATED
    assert [record["step"] for record in read_records(tmp_path / "metrics.jsonl")] == list(range(1, step + 1))
    with opened(tmp_path) as checkpoints:
        assert checkpoints.latest() == step
        saved = checkpoints.restore(step, abstract(1))
    state = fresh()
    for _, batch in zip(range(step), batches(0), strict=False):
        state, _ = compiled()(state, batch)
    assert largest_difference(saved, state) < 1e-6
