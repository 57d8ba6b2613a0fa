"""A short soak: two signals at random instants, and bit-identical weights."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_two_signals_leave_the_weights_of_an_undisturbed_run():
    words = [sys.executable, ROOT / "scripts" / "soak", "--kills", "2", "--seed", "3"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("2 signals, ")
