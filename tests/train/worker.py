"""One of two processes with two devices each: score rows, then train until the second process receives SIGTERM.

Usage: python -m tests.train.worker FOLDER, with JAX's variables for the processes. It prints one line of JSON.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax

from jaxforget.errors import Preempted
from jaxforget.start import join_processes
from tests.evals.asking import placed, scorer
from tests.train.looping import fit

# Rows of unequal lengths, so that those of the two processes differ, and more than one batch.
ROWS = [[1, 2, 3, 4, 5, 6, 7], [8, 9], [10, 11, 12], list(range(20, 50)), [5, 4, 3, 2], [77]]
TERMINATED = 3


def main(folder: Path) -> None:
    """Run the process; see the module."""
    join_processes()
    scores = [row.tolist() for row in scorer(fsdp=4, batch=4).log_probabilities(placed(4), ROWS)]

    def hook(step: int) -> None:
        # The notice needs some time to reach the other process.
        time.sleep(0.02)
        if step == TERMINATED and jax.process_index() == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    told = "nothing"
    try:
        fit(folder, steps=2000, checkpoint_every=5000, devices=4, hook=hook)
    except Preempted as stopped:
        told = str(stopped)
    print(json.dumps({"scores": scores, "told": told}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
