"""The entry point: commands gathered, words parsed, faults told."""

import argparse
import os
import sys
import threading
from collections.abc import Sequence

from jaxforget.cli import chain, demo, generate, plan, profile, review
from jaxforget.cli.faults import Terminated, abandoned, silence, stoppable, tell, users_fault
from jaxforget.cli.parser import Parser

EXAMPLES = """\
first steps:
  jaxforget demo
  jaxforget run configs/whp_llama2_7b.yaml corpus.path=my_text anchors.path=my_anchors.json
  jaxforget generate meta-llama/Llama-2-7b-chat-hf runs/whp_llama2_7b/export --prompt "When Harry"

jaxforget COMMAND --help says more; for run, its stages and plan it lists every option.
"""
# In the order of the help.
COMMANDS = (demo, chain, review, plan, profile, generate)
ANEW = ("plan", "profile", "generate")  # commands that keep nothing to go on from


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0, 2 for a user's fault, 130 after Ctrl-C, 143 after SIGTERM."""
    given = parse(sys.argv[1:] if arguments is None else list(arguments))
    given.whole = arguments is None  # the process is this command's
    # Quiet libraries: their advice is about frameworks that are not used here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    goes_on = "" if given.name in ANEW else "; run the same command to go on from the last checkpoint"
    interrupted = f"interrupted{goes_on}"
    raised: list[BaseException] = []

    def stopped(error: BaseException) -> int:
        if isinstance(error, Terminated):
            tell(f"stopped by SIGTERM{goes_on}")
            return abandoned(143, whole=given.whole)
        tell(interrupted)
        return abandoned(130, whole=given.whole)

    try:
        with stoppable(f"jaxforget: {interrupted}", whole=given.whole) as raised:
            return given.command(given) or 0
    except (KeyboardInterrupt, Terminated) as error:
        return stopped(error)
    except BrokenPipeError:
        silence(sys.stdout)  # its reader left (| head)
        return 141
    except Exception as error:
        if raised:
            return stopped(raised[0])
        line = users_fault(error, str(getattr(given, "out", "")))
        if line is None or given.debug:
            raise
        print(f"jaxforget: {line}", file=sys.stderr)
        if arguments is None:
            # The process ends here, and what its threads still have to say of the same fault adds nothing.
            threading.excepthook = sys.unraisablehook = lambda _: None
        return 2


def parse(words: list[str]) -> argparse.Namespace:
    """The words of a command line as its command's arguments; a fault ends the process with status 2."""
    parser, subparsers = make_parser()
    if any("\udc80" <= letter <= "\udcff" for word in words for letter in word):
        parser.error("the command line is not UTF-8; set a UTF-8 locale (LANG=C.UTF-8) or rename the file")
    given, rest = parser.parse_known_args(_joined(words))
    # argparse takes the words behind a flag for none of its own: `run CONFIG --debug key=value`.
    stray = [word for word in rest if word.startswith("-") or not hasattr(given, "overrides")]
    if stray:
        subparsers[given.name].error(f"unknown argument {stray[0]!r}")
    if rest:
        given.overrides = [*given.overrides, *rest]
    return given


def _joined(words: list[str]) -> list[str]:
    """`anchors review`, the one command of two words, as one word; a CONFIG of that name is written ./review."""
    first = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    if words[first : first + 2] == ["anchors", "review"]:
        return [*words[:first], "anchors review", *words[first + 2 :]]
    return words


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and each command's own by its name."""
    parser = Parser(
        prog="jaxforget",
        description="Makes a Llama model forget a text, and shows the evidence.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show a traceback where there is one")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, dest="name", help="one of those below")
    subparsers: dict[str, Parser] = {}
    listed = []

    def add_command(name: str, summary: str, run) -> Parser:
        listed.append(f"  {name:9}  {summary}\n")
        sub = commands.add_parser(name, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter)
        # Before the command or behind it; an absent one here must not undo one there.
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        sub.set_defaults(command=run)
        subparsers[name] = sub
        return sub

    for command in COMMANDS:
        command.add(add_command)
    parser.epilog = "commands:\n" + "".join(listed) + f"\n{EXAMPLES}"
    return parser, subparsers
