"""The entry point: collect the commands, parse the words, report errors."""

import argparse
import contextlib
import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import jaxforget
from jaxforget.cli import chain, chat, compare, demo, generate, plan, profile, report, review, shell_completion
from jaxforget.cli.faults import (
    Terminated,
    leave,
    quiet_threads,
    replace_unprintable,
    silence,
    tell,
    terminable,
    users_fault,
)
from jaxforget.cli.parser import LAYOUT, Parser
from jaxforget.errors import Preempted
from jaxforget.interrupts import Ending

EXAMPLES = """\
first steps:
  jaxforget demo
  jaxforget chat runs/demo
  jaxforget run configs/whp_llama2_7b.yaml corpus.path=my_text anchors.path=my_anchors.json
  jaxforget generate meta-llama/Llama-2-7b-chat-hf runs/whp_llama2_7b/export --prompt "When Harry"

`jaxforget help COMMAND` says more about a command; `jaxforget help run` lists every option.
"""
# In the order of the help.
COMMANDS = (demo, chain, report, review, compare, plan, profile, generate, chat, shell_completion)
ANEW = ("plan", "profile", "generate", "chat", "completion")  # commands that store nothing to resume from


def main(arguments: Sequence[str] | None = None, *, ending: Ending | None = None) -> int:
    """Run one command.

    Args:
      arguments: the words of the command line; None for those of this process, which then runs only this command and
        ends here unless the command succeeds.
      ending: the installed handler of Ctrl-C and SIGTERM of this process; None installs one if `arguments` is None.

    Returns:
      The exit status: 0, 2 for an error that the user can fix, 130 after Ctrl-C, 143 after SIGTERM.
    """
    whole = arguments is None
    if whole:
        replace_unprintable(sys.stdout)
    if whole and ending is None:
        ending = Ending()
        ending.install()
    status = _run(sys.argv[1:] if whole else list(arguments), ending)
    # Threads that work on would print errors at exit, and processes of other hosts would be waited for.
    return leave(status) if whole and status else status


def _run(words: list[str], ending: Ending | None) -> int:
    """Parse and run one command; return its exit status."""
    try:
        given = parse(words)
    except OSError as error:  # a help text that cannot be written
        return _unwritten(error)
    given.ending = ending
    # These libraries print advice about frameworks that are not used here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    resumable = "" if given.name in ANEW else "; run the same command to go on from the last checkpoint"
    if ending is None:
        signals = terminable()
    else:
        signals, ending.resumable = contextlib.nullcontext([]), resumable
        quiet_threads(given.debug)
    raised: list[BaseException] = []
    try:
        with signals as raised:
            status = given.command(given) or 0
            try:
                sys.stdout.flush()  # at exit, an error here could no longer change the status
            except OSError as error:
                return _unwritten(error)
            return status
    except (KeyboardInterrupt, Terminated) as error:
        return _stopped(error, resumable)
    except Preempted as stopped:
        tell(str(stopped))
        return 128 + stopped.signal
    except BrokenPipeError:
        silence(sys.stdout)  # the reader closed the pipe, as `| head` does
        return 141
    except Exception as error:
        if raised:
            return _stopped(raised[0], resumable)
        if isinstance(error, OSError) and error.filename is None and _printing(error):
            return _unwritten(error)
        line = users_fault(error, str(getattr(given, "out", "")))
        if line is None or given.debug:
            if ending is None:
                raise
            traceback.print_exc()
            return 1 if line is None else 2
        tell(line)
        return 2


def _stopped(error: BaseException, resumable: str) -> int:
    """Print the last line of an interrupted command; return its exit status."""
    if isinstance(error, Terminated):
        tell(f"stopped by SIGTERM{resumable}")
        return 143
    tell(f"interrupted{resumable}")
    return 130


def _printing(error: OSError) -> bool:
    """Return True if a command itself raised the error: commands write nothing but standard output."""
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).parent == Path(__file__).parent


def _unwritten(error: OSError) -> int:
    """Report that standard output cannot be written."""
    silence(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return 141
    tell(f"standard output: {error.strerror}; free space there, or write elsewhere")
    return 2


def parse(words: list[str]) -> argparse.Namespace:
    """Parse the words of a command line; an error ends the process with status 2."""
    parser, subparsers = make_parser()
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    _check_command(words, parser, list(subparsers))
    if any("\udc80" <= letter <= "\udcff" for word in words for letter in word):
        parser.error("the command line is not UTF-8; set a UTF-8 locale (LANG=C.UTF-8) or rename the file")
    given, rest = parser.parse_known_args(_joined(words))
    # argparse leaves words after a flag to the caller: `run CONFIG --debug key=value`.
    stray = [word for word in rest if word.startswith("-") or not hasattr(given, "overrides")]
    if stray:
        subparsers[given.name].error(f"unknown argument {stray[0]!r}")
    if rest:
        given.overrides = [*given.overrides, *rest]
    return given


def _check_command(words: list[str], parser: Parser, names: list[str]) -> None:
    """End with a suggestion where the first word is no command."""
    given = next((word for word in words if not word.startswith("-")), None)
    if given is None or given in names:
        return
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    if near:
        parser.error(f"unknown command {given!r}; did you mean {near[0]}?")
    parser.error(f"unknown command {given!r}; the commands are {', '.join(names)}")


def _joined(words: list[str]) -> list[str]:
    """Join `anchors review`, the one command of two words; a CONFIG of that name is written ./review."""
    first = next((place for place, word in enumerate(words) if not word.startswith("-")), len(words))
    if words[first : first + 2] == ["anchors", "review"]:
        return [*words[:first], "anchors review", *words[first + 2 :]]
    return words


def make_parser() -> tuple[Parser, dict[str, Parser]]:
    """Return the parser, and the parser of each command by name."""
    parser = Parser(
        prog="jaxforget",
        description="Make a language model forget a text, and show the evidence.",
        formatter_class=LAYOUT,
    )
    parser.add_argument("--version", action="version", version=f"jaxforget {jaxforget.__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="name")
    subparsers: dict[str, Parser] = {}

    def add_command(name: str, summary: str, run) -> Parser:
        described = f"{summary[0].upper()}{summary[1:]}."
        sub = commands.add_parser(name, help=summary, description=described, formatter_class=LAYOUT)
        # --debug may stand before or after the command: without SUPPRESS its absence here would undo the former.
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
        sub.set_defaults(command=run)
        subparsers[name] = sub
        return sub

    for command in COMMANDS:
        command.add(add_command)
    parser.epilog = EXAMPLES
    return parser, subparsers
