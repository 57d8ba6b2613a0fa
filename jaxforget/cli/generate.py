"""`jaxforget generate`."""

import argparse

from jaxforget.cli.parser import check_seed, number
from jaxforget.start import start_jax


def add(add_command) -> None:
    """Add the command."""
    parser = add_command("generate", "complete a prompt with several models, side by side", run)
    parser.add_argument("models", metavar="MODEL", nargs="+", help="folder, hub id or gs:// address")
    parser.add_argument("--prompt", required=True, action="append", help="text to complete; may be repeated")
    parser.add_argument("--tokens", type=int, default=64, help="largest number of new tokens [64]")
    parser.add_argument("--temperature", type=number, default=0.0, help="0 takes the most likely token [0]")
    parser.add_argument("--top-p", type=number, default=1.0, help="sample from the likely tokens of this share [1]")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling [0]")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the weights [float32]")


def run(given: argparse.Namespace) -> int:
    """Print the completion of every prompt by every model."""
    check_seed(given.seed)
    start_jax(alone=True)
    from jaxforget.api import complete, load
    from jaxforget.lm.generate import check_sampling
    from jaxforget.models.folders import read_config as read_model_config
    from jaxforget.models.folders import resolve_folder

    check_sampling(given.tokens, given.temperature, given.top_p, names=("--tokens ", "--temperature ", "--top-p "))
    # All folders are checked first: an error in the second should not wait for the first model's weights.
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
    return 0
