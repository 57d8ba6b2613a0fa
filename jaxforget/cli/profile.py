"""`jaxforget profile`."""

import argparse
import json
import sys

from jaxforget.cli.parser import add_config, option_table, read_config
from jaxforget.config import naming_options
from jaxforget.errors import UserError
from jaxforget.start import start_jax

EPILOG = """\
Compiles a training step of the run for the devices at hand, runs it, and traces a few steps. Weights are random (what a
step costs does not depend on them), so of the model its config.json is enough; the blocks are the run's, where they are
prepared. The trace is for xprof: pip install xprof, then xprof --logdir OUT/xprof.

  jaxforget profile configs/whp_llama2_7b.yaml out=runs/mine forget.accumulate=4

options (defaults in brackets):
{options}
"""


def add(add_command) -> None:
    """Adds the command."""
    parser = add_command("profile", "trace a few steps on the devices at hand; where the time goes", run)
    parser.epilog = EPILOG.format(options=option_table())
    add_config(parser)
    parser.add_argument("--step", default="forget", choices=("forget", "reinforce"), help="[forget]")
    parser.add_argument("--steps", type=int, default=3, help="how many are traced, after a warm-up [3]")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(given: argparse.Namespace) -> int:
    """Measures, and prints the table."""
    if not 1 <= given.steps <= 100:
        raise UserError(f"--steps {given.steps}: give 1 to 100")
    config = read_config(given.config, given.overrides)
    given.out = config.out or ""
    start_jax()
    import jax

    from jaxforget.tpu.profile import as_text, profile

    first = jax.process_index() == 0

    def say(text: str) -> None:
        if first:
            print(text, file=sys.stderr, flush=True)

    with naming_options(config):
        found = profile(config, given.step, steps=given.steps, say=say)
    if first:
        print(json.dumps(found, indent=1) if given.json else as_text(found))
    return 0
