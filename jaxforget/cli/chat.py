"""`jaxforget chat`."""

import argparse
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any

from jaxforget.cli.columns import Columns, coloured, fits, highlight, wrap
from jaxforget.cli.faults import as_json
from jaxforget.cli.generate import add_sampling, check_given
from jaxforget.cli.loaded import load_all, places_of, read_prompts, terms_of
from jaxforget.errors import UserError
from jaxforget.start import start_jax

HELP = """\
A run's folder names its base, its unlearned model and its control. On a terminal, type a prompt and press Enter;
/reset starts the conversation over, /quit or Ctrl-D ends it, and Ctrl-C ends an answer. Prompts may also come from a
pipe or a file, one a line. Models without a chat template continue the text.
"""
ENDS = ("/quit", "/exit", "/q")


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("chat", "talk to models, side by side", run)
    parser.epilog = HELP
    parser.add_argument("models", metavar="MODEL_OR_RUN", nargs="+", help="folder, hub id, gs:// address, or a run")
    parser.add_argument("--prompts", metavar="FILE", help="take prompts from a file, one a line ('-': standard input)")
    add_sampling(parser, tokens=128)


def run(given: argparse.Namespace) -> int:
    """Answer prompts until the input ends; return 2 if a prompt of a file or a pipe could not be answered."""
    check_given(given)
    prompts = None if given.prompts is None else read_prompts(given.prompts)
    start_jax(alone=True)
    from jaxforget.lm.conversation import Conversation
    from jaxforget.report.texts import term_pattern

    places = places_of(given.models)
    models = load_all(places, given.dtype)
    settings = {name: getattr(given, name) for name in ("temperature", "top_p", "top_k", "seed")}
    talk = Talk(
        [place.title for place in places],
        [Conversation(model, **settings) for model in models],
        tokens=given.tokens,
        pattern=term_pattern(terms_of(given.models)),
        as_json=given.json,
    )
    talks = prompts is None and sys.stdin.isatty()
    if talks and not given.json:
        _greet(talk)
    failed = False
    with talk.interruptible():
        for prompt in _typed() if talks else prompts or (line.rstrip("\n") for line in sys.stdin):
            if prompt.strip() in ENDS:
                break
            if prompt.strip() == "/reset":
                talk.reset()
            elif prompt.strip():
                failed |= not talk.answer(prompt, echo=not talks)
    return 2 if failed and not talks else 0


def _greet(talk: "Talk") -> None:
    modes = {"chat template" if c.has_template else "plain continuation" for c in talk.conversations}
    print(f"{', '.join(talk.titles)} ({' and '.join(sorted(modes))}). /reset starts over, /quit ends.", flush=True)


def _typed() -> Iterator[str]:
    """Yield the lines that a person types; the arrow keys bring earlier ones back."""
    with suppress(ImportError):
        import readline  # noqa: F401  (gives input() its history)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return


class _Interrupt:
    """The handler of SIGINT of a chat; `jaxforget.interrupts` sees to it that it also runs while a line is awaited.

    Attributes:
      heard: Ctrl-C was pressed during this answer.
      reads_input: the program waits for the next prompt; see `jaxforget.interrupts`.
    """

    def __init__(self) -> None:
        self.heard, self.reads_input = False, True

    def __call__(self, *_: object) -> None:
        # An answer is left between two groups of tokens, because JAX must not be interrupted in the midst of one.
        if self.reads_input or self.heard:
            self.reads_input = False
            raise KeyboardInterrupt
        self.heard = True


class Talk:
    """Several conversations that get the same prompts.

    Args:
      titles: of the models.
      conversations: one a model.
      tokens: largest number of new tokens of an answer.
      pattern: terms of the target, to highlight.
      as_json: print one JSON object an answer instead of columns.
    """

    def __init__(
        self, titles: Sequence[str], conversations: Sequence[Any], *, tokens: int, pattern: Any, as_json: bool
    ):
        self.titles, self.conversations = list(titles), list(conversations)
        self._tokens, self._pattern, self._json = tokens, pattern, as_json
        self._interrupt = _Interrupt()

    def reset(self) -> None:
        """Start all conversations over."""
        for conversation in self.conversations:
            conversation.reset()
        if not self._json:
            print("(started over)", flush=True)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C stop the current answer; a second one, or one at the prompt, ends the program."""
        try:
            before = signal.signal(signal.SIGINT, self._interrupt)
        except ValueError:  # not in the main thread, which alone receives signals
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def answer(self, prompt: str, *, echo: bool) -> bool:
        """Print every model's answer to one prompt.

        Returns:
          False if the models cannot answer it; the reason is printed.
        """
        self._interrupt.reads_input = self._interrupt.heard = False
        width, answered = shutil.get_terminal_size().columns, True
        if echo and not self._json:
            print(f"> {prompt}", flush=True)
        try:
            if self._json:
                self._as_json(prompt)
            elif fits(len(self.titles), width):
                self._in_columns(prompt, width)
            else:
                self._stacked(prompt, width)
        except UserError as error:
            # One prompt that is too long must not end the conversation.
            answered = False
            print(f"jaxforget: {error}", file=sys.stderr, flush=True)
        stopped = self._interrupt.heard
        self._interrupt.reads_input = True
        if not self._json:
            print("(stopped)\n" if stopped else "", flush=True)
        return answered

    def _pieces(self, conversation: Any, prompt: str) -> Iterator[str]:
        """Yield the pieces of an answer until it ends or is stopped."""
        with closing(conversation.answer(prompt, self._tokens)) as pieces:
            while not self._interrupt.heard and (piece := next(pieces, None)) is not None:
                yield piece

    def _as_json(self, prompt: str) -> None:
        for title, conversation in zip(self.titles, self.conversations, strict=True):
            text = "".join(self._pieces(conversation, prompt))
            line = {"prompt": prompt, "model": title, "answer": text, "stopped": self._interrupt.heard}
            print(as_json(line), flush=True)

    def _in_columns(self, prompt: str, width: int) -> None:
        columns = Columns(self.titles, width, sys.stdout, self._pattern)
        going = {i: self._pieces(c, prompt) for i, c in enumerate(self.conversations)}
        while going:
            for place in list(going):
                piece = next(going[place], None)
                if piece is None:
                    del going[place]
                    columns.end(place)
                else:
                    columns.add(place, piece)

    def _stacked(self, prompt: str, width: int) -> None:
        colour = coloured(sys.stdout)
        for title, conversation in zip(self.titles, self.conversations, strict=True):
            if len(self.titles) > 1:
                print(f"\x1b[1m{title}\x1b[0m" if colour else f"{title}:", flush=True)
            text, printed = "", ""
            for piece in self._pieces(conversation, prompt):
                text += piece
                # Whole words only: a term is coloured once it is complete, and a word is never broken by the terminal.
                ready = "\n".join(wrap(text.lstrip(), width - 1))
                ready = ready[: max(ready.rfind(" "), ready.rfind("\n")) + 1]
                printed = self._print_after(ready, printed, colour)
            self._print_after("\n".join(wrap(text.lstrip(), width - 1)), printed, colour)
            print(flush=True)

    def _print_after(self, text: str, printed: str, colour: bool) -> str:
        """Print what `text` adds to `printed`, and return the text."""
        if not text.startswith(printed):
            return printed
        print(highlight(text[len(printed) :], self._pattern, colour=colour), end="", flush=True)
        return text
