"""`jaxforget anchors review`: review a run's dictionary on a local page or in a text file."""

import argparse
import sys
import webbrowser
from pathlib import Path

from jaxforget.cli.parser import add_config, option_table, read_config
from jaxforget.config import Config, naming_options
from jaxforget.errors import UserError

HELP = "review a run's dictionary on a local page or in a text file: accept, edit, drop or add anchors"
EPILOG = """\
Serves a page to this machine only and prints its address. Ctrl-C or the page's Done button ends it. Save writes the
decisions into the run's anchors.json and into anchors.review.json, which also applies when anchors are found again.
`jaxforget run` then translates the text by the reviewed dictionary.

--text writes anchors.review.txt into the run's folder. Edit it and run the same command again, which reads it.

options that matter here (defaults in brackets):
{options}
"""


def add(add_command) -> None:
    """Add the command, whose arguments follow `anchors review`."""
    parser = add_command("anchors review", HELP, run)
    parser.epilog = EPILOG.format(options=option_table(["out", "corpus.path", "corpus.field", "corpus.split"]))
    parser.add_argument("--text", action="store_true", help="use a text file instead of a page")
    parser.add_argument("--port", type=int, default=0, help="port of the page [a free one]")
    parser.add_argument("--no-browser", action="store_true", help="print the address without opening a browser")
    add_config(parser)


def run(given: argparse.Namespace) -> int:
    """Serve the page, or write or read the text file."""
    config = read_config(given.config, given.overrides)
    if config.out is None:
        raise UserError("out is not set; it names the run's folder, as out=runs/NAME")
    from jaxforget.anchors.review.edits import Review

    folder = Path(config.out)
    review = Review(folder / "anchors.json", folder / "anchors.review.json")
    if not review.anchors.is_file():
        raise UserError(f"{review.anchors}: no such file; run jaxforget anchors first, with the same configuration")
    review.entries()  # reports a fault in the files before anything is opened
    return _text(folder, review) if given.text else _page(given, config, review)


def _text(folder: Path, review) -> int:
    from jaxforget.anchors.diagnosis import clashes
    from jaxforget.anchors.review.form import read_form, write_form
    from jaxforget.corpus.dictionary import Anchors

    path = folder / "anchors.review.txt"
    if not path.is_file():
        count = write_form(path, review)
        print(f"{path}: {count} anchors; edit it, then run the same command again, which reads it", file=sys.stderr)
        return 0
    changes = read_form(path, review)
    review.save(review.version(), changes)
    path.unlink()
    print(f"{review.anchors}: {len(changes)} changes applied from {path.name}, which is removed", file=sys.stderr)
    changed = {change.anchor for change in changes}
    for anchor, text, other in clashes(Anchors.load(review.anchors, keep_all=True)):
        if changed & {anchor, other}:
            print(
                f"warning: {anchor!r}: its translation {text!r} contains the anchor {other!r}, which base would read",
                file=sys.stderr,
            )
    return 0


def _page(given: argparse.Namespace, config: Config, review) -> int:
    from jaxforget.anchors.review.server import ReviewServer
    from jaxforget.corpus.text import source_of

    if not 0 <= given.port < 65536:
        raise UserError(f"--port {given.port}: must be from 1 to 65535; omit it for a free port")
    source = source_of(config.corpus)

    def documents() -> list:
        if source is None:
            raise UserError("corpus.path is not set, so there are no sentences to show")
        with naming_options(config):
            return list(source.documents())

    server = ReviewServer(review, documents, port=given.port)
    print(f"review at {server.address}\nCtrl-C ends it; saved changes stay saved", file=sys.stderr, flush=True)
    if not given.no_browser:
        webbrowser.open(server.address)
    try:
        server.serve()
    except KeyboardInterrupt:
        print("", file=sys.stderr)
    return 0
