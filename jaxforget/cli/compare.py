"""`jaxforget compare`."""

import argparse
from pathlib import Path

from jaxforget.cli.parser import add_config, read_config
from jaxforget.config import check_places
from jaxforget.errors import UserError
from jaxforget.start import start_jax

WORDS = ("methods", "seeds", "trials")
EPILOG = """\
methods=NAME,NAME...  the methods, as methods=whp,npo
seeds=0,1,2           seeds of the runs with the chosen settings [0,1,2]
trials=N              runs of each method's search over learning rate and strength, 1 to 12 [12]

Every method gets the same base, rows and number of forget tokens. The first seed searches; one half
of the questions chooses, the other half is reported. out= receives compare.json, compare.md and
compare.svg, and the runs in compare/. The same command resumes. Other options are those of
`jaxforget run`.

  jaxforget compare configs/toy.yaml methods=whp,npo seeds=0,1 trials=4
"""


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("compare", "compare unlearning methods under one budget", run)
    parser.epilog = EPILOG
    parser.add_argument("--again", action="store_true", help="replace finished runs of other options")
    parser.add_argument("--force", action="store_true", help="fill a folder that holds other files")
    add_config(parser)


def run(given: argparse.Namespace) -> int:
    """Run the comparison and print its table."""
    words = dict(word.split("=", 1) for word in given.overrides if word.partition("=")[0] in WORDS and "=" in word)
    config = read_config(given.config, [word for word in given.overrides if word.partition("=")[0] not in WORDS])
    methods = [name.strip() for name in words.get("methods", "").split(",") if name.strip()]
    if not methods:
        raise UserError("methods= is not given; name the methods to compare, as methods=whp,npo")
    seeds = _numbers("seeds", words.get("seeds", "0,1,2"))
    trials = _numbers("trials", words.get("trials", "12"))
    if len(trials) != 1:
        raise UserError(f"trials={words['trials']}: give one whole number")
    check_places(config, ("anchors", "prepare", "reinforce", "forget"))
    given.out = config.out or ""
    start_jax()
    from jaxforget.compare.protocol import compare

    compare(config, methods, seeds, trials[0], again=given.again, force=given.force)
    print((Path(config.out) / "compare.md").read_text(encoding="utf-8"), end="")
    return 0


def _numbers(key: str, text: str) -> list[int]:
    """Parse whole numbers separated by commas."""
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"{key}={text}: give whole numbers, separated by commas") from None
