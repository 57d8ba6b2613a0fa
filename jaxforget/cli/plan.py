"""`jaxforget plan`."""

import argparse
import json
import os
import sys

from jaxforget.cli.parser import add_config, option_table, read_config
from jaxforget.config import naming_options

PLANNED = ("reinforce", "label", "forget", "undo", "score", "decode")
PLAN_EPILOG = """\
The real steps, built as the run builds them, are compiled by the TPU compiler (pip install libtpu;
no TPU is needed). The table says whether a step fits and how much memory it needs. Where a training
step does not fit, options that save memory are compiled too. A 7B step takes a minute or more on
two cores. The exit status is 0 whether it fits or not: read `fits` of --json.

slices: v2-8 and v3-8 up to -512 and -2048, v4-8 and v5p-8 up to -2048,
v5e-1/4/8/16/32/64/128/256, v6e as v5e, tpu7x-8 up to -2048. As in the cloud, v2, v3, v4, v5p and
tpu7x count cores, two per chip; v5e and v6e count chips.

  jaxforget plan configs/whp_llama2_7b.yaml --slice v5e-8 --slice v4-8 forget.accumulate=4

Options, defaults in brackets.

{options}
"""


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("plan", "compile a run's steps for TPU slices that you do not have: fit and cost", run)
    parser.epilog = PLAN_EPILOG.format(options=option_table())
    add_config(parser, "YAML file or run's folder; the model needs only its config.json")
    parser.add_argument("--slice", required=True, action="append", metavar="NAME", help="as v5e-8; may be repeated")
    parser.add_argument("--step", action="append", choices=PLANNED, help="only this step; may be repeated [all]")
    parser.add_argument("--max-batch", action="store_true", help="find the largest batch that fits")
    parser.add_argument("--remat", action="store_true", help="also compile the training steps with every model.remat")
    parser.add_argument("--no-advice", action="store_true", help="if a step does not fit, compile no alternatives")
    parser.add_argument("--json", action="store_true", help="print JSON: a list with one entry per slice and step")


def run(given: argparse.Namespace) -> int:
    """Compile the steps and print the table."""
    config = read_config(given.config, given.overrides)
    # The TPU compiler needs no TPU, and looking for an absent one takes minutes.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from jaxforget.tpu.plan import plan_rows
    from jaxforget.tpu.table import as_text

    rows = []

    def show() -> None:
        """Print the rows that are finished, also if the rest is interrupted."""
        if rows:
            print(json.dumps(rows, indent=1) if given.json else as_text(rows), flush=True)

    if given.ending is not None:
        given.ending.last = show
    with naming_options(config):
        try:
            for row in plan_rows(
                config,
                given.slice,
                steps=given.step or PLANNED,
                max_batch=given.max_batch,
                remats=given.remat,
                advise=not given.no_advice,
                say=lambda text: print(text, file=sys.stderr, flush=True),
            ):
                rows.append(row)
        finally:
            show()
    return 0
