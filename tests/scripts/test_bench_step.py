"""The bench on a model of nothing: its sides do the same work, and it says so."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["--layers", "1", "--width", "32", "--inner", "48", "--heads", "2", "--words", "300"]
SHORT = [*SMALL, "--length", "24", "--blocks", "2", "--rounds", "2"]


def bench(*words: str) -> subprocess.CompletedProcess:
    script = ROOT / "scripts" / "bench_step.py"
    # One device: the tests' eight would have to share two blocks.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, script, "--device", "cpu", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def result() -> dict:
    done = bench(*SHORT, "--json", "forget.learning_rate=1e-2")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sides_train_alike(result):
    ours, theirs, cached = (result["sides"][name]["losses"] for name in ("ours", "torch", "cached"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    np.testing.assert_allclose(ours[:2], cached[:2], rtol=1e-5)
    assert len(ours) == 3
    assert ours[2] < ours[0]


def test_ratios_are_ours_over_theirs(result):
    ours, theirs = (result["sides"][name] for name in ("ours", "torch"))
    weights = 3 * 28_000 * 4  # of 300 x 32 twice, 4 x 32 x 32, 3 x 32 x 48 and three norms
    for side in (ours, theirs):
        # Three models' fp32 weights, two moments of one of them, and a few counters.
        assert weights * 5 / 3 <= side["held"] < weights * 5 / 3 + 100
        assert side["beyond_bytes"] == side["peak"] - side["held"] > side["libraries"] / 2
        assert side["tokens_per_second"] == pytest.approx(48 / np.median(side["seconds"]))
    assert result["tokens_per_second_ratio"] == ours["tokens_per_second"] / theirs["tokens_per_second"]
    assert result["memory_ratio"] == ours["beyond_bytes"] / theirs["beyond_bytes"]


def test_a_wrong_option_is_one_line_before_any_weight_is_made():
    done = bench(*SHORT, "targets.tiles=3")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "targets.tile" in done.stderr
