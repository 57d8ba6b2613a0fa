"""`jaxforget report`."""

import argparse
from pathlib import Path

from jaxforget.cli.parser import add_config, option_table, options_of, read_config
from jaxforget.config import check_places
from jaxforget.errors import UserError
from jaxforget.start import start_jax

HELP = """\
CONFIG is a run's folder, or the YAML file of a run. Further folders of runs are put side by side
with the first on one page, comparison.html in the first run's folder.

Options that matter to this command; defaults in brackets.

{options}
"""


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("report", "write report.html, or a page that compares several runs", run)
    parser.epilog = HELP.format(options=option_table(options_of("report")))
    add_config(parser)
    parser.add_argument("--out", metavar="FILE", type=Path, dest="page", help="write the page here")
    parser.add_argument("--figures", action="store_true", help="also write every figure as SVG, beside it")


def run(given: argparse.Namespace) -> int:
    """Write the page of a run, or of several."""
    more = [word for word in given.overrides if "=" not in word]
    config = read_config(given.config, [word for word in given.overrides if "=" in word])
    if config.out is None:
        raise UserError("out is not set; it names the folder that the run fills, as out=runs/NAME")
    given.out = config.out  # named in errors of the file system
    check_places(config, ("report",))
    start_jax(alone=True)
    if not (more or given.page or given.figures):
        from jaxforget.pipeline import run_chain

        run_chain(config, ("report",))
        return 0
    from jaxforget.report.page import write_report

    print(write_report(config.out, *more, out=given.page, figures=given.figures))
    return 0
