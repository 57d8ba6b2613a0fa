"""`jaxforget demo`."""

import argparse
import os
from pathlib import Path

from jaxforget.cli.parser import check_seed
from jaxforget.errors import UserError
from jaxforget.start import start_jax


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("demo", "run everything on a toy world, on this machine, in a few minutes", run)
    parser.add_argument("--out", default="runs/demo", help="the run's folder [runs/demo]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the toy world [0]")


def run(given: argparse.Namespace) -> int:
    """Run the demo."""
    check_seed(given.seed)
    if os.path.lexists(given.out) and not os.path.isdir(given.out):
        raise UserError(f"--out {given.out}: is not a folder; name a folder, as --out runs/demo")
    start_jax()
    from jaxforget.demo.demo import run_demo

    run_demo(Path(given.out), given.seed)
    return 0
