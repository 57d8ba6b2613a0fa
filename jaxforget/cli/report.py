"""`jaxforget report`."""

import argparse
import importlib.util
import shlex
from pathlib import Path

from jaxforget.cli.faults import tell
from jaxforget.cli.parser import add_config, number, option_table, options_of, read_config
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
    parser.add_argument("--figures", action="store_true", help="also write every figure as SVG and PNG, beside it")
    parser.add_argument(
        "--price", type=number, metavar="USD_PER_CHIP_HOUR", help="show on the page what the run's stages cost"
    )


def run(given: argparse.Namespace) -> int:
    """Write the page of a run, or of several."""
    if given.price is not None and given.price < 0:
        raise UserError(f"--price {given.price:g}: give a price of at least 0")
    more = [word for word in given.overrides if "=" not in word]
    config = read_config(given.config, [word for word in given.overrides if "=" in word])
    if config.out is None:
        raise UserError("out is not set; it names the folder that the run fills, as out=runs/NAME")
    given.out = config.out  # named in errors of the file system
    check_places(config, ("report",))
    start_jax(alone=True)
    if not (more or given.page or given.figures or given.price is not None):
        from jaxforget.pipeline import run_chain

        run_chain(config, ("report",))
    else:
        from jaxforget.report.page import write_report

        print(write_report(config.out, *more, out=given.page, figures=given.figures, price=given.price))
    for folder in (config.out, *more):
        if not (Path(folder) / "evals/summary.json").is_file():
            tell(f"{folder}: nothing is measured yet; jaxforget eval {shlex.quote(folder)} measures its models")
    if given.figures and importlib.util.find_spec("resvg_py") is None:
        tell("the figures are SVG only; pip install resvg-py writes them as PNG, too")
    return 0
