"""A short soak: three signals at random instants, and bit-identical weights."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_three_signals_leave_the_weights_of_an_undisturbed_run():
    words = [sys.executable, ROOT / "scripts" / "soak", "--kills", "3", "--seed", "3"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("3 signals, ")
