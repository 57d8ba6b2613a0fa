"""`jaxforget generate`."""

import argparse
import shutil
import sys

from jaxforget.cli.columns import Columns, fits
from jaxforget.cli.faults import as_json
from jaxforget.cli.loaded import load_all, places_of, read_prompts, terms_of
from jaxforget.cli.parser import check_seed, number
from jaxforget.errors import UserError, printable
from jaxforget.start import start_jax


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("generate", "complete prompts with several models, side by side", run)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="folder, hub id, gs:// address, or a run's folder")
    parser.add_argument("--prompt", action="append", default=[], help="text to complete; may be repeated")
    parser.add_argument("--prompts", metavar="FILE", help="take prompts from a file, one a line ('-': standard input)")
    add_sampling(parser, tokens=64)


def add_sampling(parser: argparse.ArgumentParser, *, tokens: int) -> None:
    """Add the options of sampling, of the weights' dtype and of the output."""
    parser.add_argument("--tokens", type=int, default=tokens, help=f"largest number of new tokens [{tokens}]")
    parser.add_argument("--temperature", type=number, default=0.0, help="0 takes the most likely token [0]")
    parser.add_argument("--top-p", type=number, default=1.0, help="sample from the likely tokens of this share [1]")
    parser.add_argument("--top-k", type=int, default=0, help="sample from this many likely tokens; 0 is all [0]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling [0]")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the weights [float32]")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")


def check_given(given: argparse.Namespace) -> None:
    """Raise `UserError` for a seed or a sampling option out of range, before anything is loaded."""
    check_seed(given.seed)
    from jaxforget.lm.generate import check_sampling

    names = ("--tokens ", "--temperature ", "--top-p ", "--top-k ")
    check_sampling(given.tokens, given.temperature, given.top_p, given.top_k, names=names)


def run(given: argparse.Namespace) -> int:
    """Print the completion of every prompt by every model."""
    prompts = [*given.prompt, *(read_prompts(given.prompts) if given.prompts else ())]
    if not prompts:
        raise UserError("no prompt is given; write --prompt TEXT, or --prompts FILE with one prompt a line")
    check_seed(given.seed)
    start_jax(alone=True)
    check_given(given)
    from jaxforget.lm.completion import complete
    from jaxforget.report.texts import term_pattern

    places = places_of(given.models)
    settings = {name: getattr(given, name) for name in ("temperature", "top_p", "top_k", "seed")}
    # One model at a time where none shares another's arrays: several may not fit together.
    texts = []
    for place in places:
        (model,) = load_all([place], given.dtype)
        texts.append(complete(model, prompts, given.tokens, **settings))
        del model
    if given.json:
        for place_number, prompt in enumerate(prompts):
            found = {place.title: mine[place_number] for place, mine in zip(places, texts, strict=True)}
            print(as_json({"prompt": prompt, "completions": found}))
        return 0
    width = shutil.get_terminal_size().columns
    pattern = term_pattern(terms_of(given.models))
    titles = [place.title for place in places]
    for place_number, prompt in enumerate(prompts):
        print(f"> {printable(prompt)}")
        for group in [range(len(places))] if fits(len(places), width) else [[i] for i in range(len(places))]:
            columns = Columns([titles[i] for i in group], width, sys.stdout, pattern)
            for column, i in enumerate(group):
                columns.add(column, printable(texts[i][place_number]))
                columns.end(column)
        print()
    return 0
