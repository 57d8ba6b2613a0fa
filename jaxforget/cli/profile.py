"""`jaxforget profile`."""

import argparse
import json
import sys

from jaxforget.cli.parser import add_config, option_table, read_config
from jaxforget.config import naming_options
from jaxforget.errors import UserError
from jaxforget.start import start_jax

EPILOG = """\
Compiles a training step of the run for the devices of this machine, runs it, and traces a few
steps. Weights are random, because they do not change the cost of a step: the model needs only its
config.json. Blocks are the run's where they are prepared. The trace is for xprof:
pip install xprof, then xprof --logdir OUT/xprof.

  jaxforget profile configs/whp_llama2_7b.yaml out=runs/mine forget.accumulate=4

Options, defaults in brackets.

{options}
"""


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("profile", "trace a few steps on this machine: where the time goes", run)
    parser.epilog = EPILOG.format(options=option_table())
    add_config(parser)
    parser.add_argument("--step", default="forget", choices=("forget", "reinforce"), help="the step to trace [forget]")
    parser.add_argument("--steps", type=int, default=3, help="steps to trace, after a warm-up [3]")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(given: argparse.Namespace) -> int:
    """Measure and print the table."""
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
