"""`jaxforget demo`."""

import argparse
from pathlib import Path

from jaxforget.cli.faults import quiet_threads, tell
from jaxforget.cli.parser import check_seed
from jaxforget.start import start_jax


def add(add_command) -> None:
    """Adds the command."""
    parser = add_command("demo", "a toy world, everything, on this machine, in a few minutes", run)
    parser.add_argument("--out", default="runs/demo", help="the run's folder [runs/demo]")
    parser.add_argument("--seed", type=int, default=0, help="of the world [0]")


def run(given: argparse.Namespace) -> int:
    """Runs the demo."""
    check_seed(given.seed)
    start_jax()
    from jaxforget.demo.demo import run_demo
    from jaxforget.train.loop import Preempted

    quiet_threads(given.debug)
    try:
        run_demo(Path(given.out), given.seed)
    except Preempted as stopped:
        tell(str(stopped))
        return 128 + stopped.signal
    return 0
