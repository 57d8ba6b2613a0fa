"""`jaxforget generate`."""

import argparse
import sys

from jaxforget.cli.parser import check_seed, number
from jaxforget.start import start_jax


def add(add_command) -> None:
    """Adds the command."""
    parser = add_command("generate", "complete a prompt with several models, side by side", run)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="folder, hub id or gs:// path")
    parser.add_argument("--prompt", required=True, action="append", help="may be given more than once")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens at most [64]")
    parser.add_argument("--temperature", type=number, default=0.0, help="0 takes the likeliest token [0]")
    parser.add_argument("--top-p", type=number, default=1.0, help="sample among the likeliest that hold this share [1]")
    parser.add_argument("--seed", type=int, default=0, help="of the sampling [0]")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="[float32]")


def run(given: argparse.Namespace) -> int:
    """Prints every model's completion of every prompt."""
    check_seed(given.seed)
    start_jax(alone=True)
    from jaxforget.api import complete, load
    from jaxforget.lm.generate import check_sampling
    from jaxforget.models.folders import read_config as read_model_config
    from jaxforget.models.folders import resolve_folder

    check_sampling(given.tokens, given.temperature, given.top_p, names=("--tokens ", "--temperature ", "--top-p "))
    # All of them first: the second one's fault should not wait for the first one's weights.
    folders = [resolve_folder(place) for place in given.models]
    for folder in folders:
        read_model_config(folder)
    for place, folder in zip(given.models, folders, strict=True):
        model = load(folder, dtype=given.dtype)
        texts = complete(
            model,
            given.prompt,
            new_tokens=given.tokens,
            temperature=given.temperature,
            top_p=given.top_p,
            seed=given.seed,
        )
        print(f"== {place}")
        for prompt, text in zip(given.prompt, texts, strict=True):
            print(f"{prompt}|{text}\n")
        del model
    sys.stdout.flush()
    return 0
