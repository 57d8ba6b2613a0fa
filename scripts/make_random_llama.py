#!/usr/bin/env python3
"""Write a Hugging Face folder with the shape of a Llama and random weights, one tensor at a time.

Run it with .venv/bin/python. The default is Llama-2-7B in bfloat16: 13.5 GB in two files of at most 10 GB. The cost of
loading, saving and training does not depend on the values of the weights. The tokenizer knows bytes only, unless
--tokenizer names one to copy.
"""

import argparse
import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import bench.command as command
import numpy as np

from jaxforget.errors import UserError
from jaxforget.models.config import ModelConfig
from jaxforget.models.export import config_to_hf, export_order, write_model
from jaxforget.models.folders import HUB_ID
from jaxforget.models.layout import parameter_count
from jaxforget.models.load import float_dtype
from jaxforget.models.published import PUBLISHED, read_shape

CARD = "# A Llama with random weights\n\nMade by jaxforget's scripts/make_random_llama.py; it knows nothing.\n"
SPREAD = 0.02  # standard deviation of every kernel, as at initialisation
CHUNK = 1 << 22  # numbers drawn at a time


def random_tensors(config: ModelConfig, dtype: np.dtype, seed: int, drift: float = 0.0) -> Iterator[np.ndarray]:
    """Yield the tensors of `export_order`: kernels normal, norms one, biases zero.

    Args:
      config: shape of the model.
      dtype: of the tensors.
      seed: of the draws.
      drift: distance from the model of that seed, as further training would cause: 0 none, 1 an unrelated model.
    """
    rng, other = np.random.default_rng(seed), np.random.default_rng(seed + 1)

    def draw(count: int) -> np.ndarray:
        numbers = rng.standard_normal(count, np.float32)
        if not drift:
            return numbers
        numbers *= np.float32((1 - drift**2) ** 0.5)
        return numbers + np.float32(drift) * other.standard_normal(count, np.float32)

    for _, (leaf, *_), _ in export_order(config):
        out = np.empty(leaf.stored_shape, dtype)
        flat = out.reshape(-1)
        if leaf.name.endswith(("scale", "bias")):
            flat[:] = leaf.name.endswith("scale")
        else:
            for start in range(0, flat.size, CHUNK):
                part = flat[start : start + CHUNK]
                part[:] = draw(part.size) * np.float32(SPREAD)
        yield out


def write_random_llama(
    folder: Path,
    config: ModelConfig,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    drift: float = 0.0,
    max_shard_bytes: int = 10_000_000_000,
    tokenizer: Path | None = None,
) -> None:
    """Write `folder`, tokenizer included, completely or not at all; one tensor is in memory at a time."""
    from jaxforget.demo.tokenizer import save_tokenizer, train_tokenizer  # takes seconds to import

    stored = float_dtype(dtype)
    raw = config_to_hf(config)
    tensors = random_tensors(config, stored, seed, drift)
    with tempfile.TemporaryDirectory() as made:
        if tokenizer is None:
            save_tokenizer(train_tokenizer([], 0), made)
        write_model(folder, tensors, config, raw, tokenizer or made, stored, max_shard_bytes, CARD)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = command.Parser(__file__, __doc__)
    size = command.number(int, 1)
    known = ", ".join(PUBLISHED)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--like", default="meta-llama/Llama-2-7b-hf", help=f"{known}, another hub id, or a folder")
    parser.add_argument("--layers", type=size, help="number of layers; this and the next four replace the model's own")
    parser.add_argument("--width", type=size, help="width of the hidden states")
    parser.add_argument("--inner", type=size, help="width of the feed-forward part")
    parser.add_argument("--heads", type=size, help="number of attention heads, and of key and value heads")
    parser.add_argument("--vocabulary", type=size, help="size of the vocabulary")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    gigabytes = command.number(float, 1e-6, 1e6)
    largest = "size of the largest file in GB of 1e9 bytes [10]"
    parser.add_argument("--shard-gigabytes", type=gigabytes, default=10.0, help=largest)
    parser.add_argument("--tokenizer", type=Path, help="folder whose tokenizer is copied")
    parser.add_argument("--seed", type=command.number(int, 0), default=0)
    return parser.parse_args(words)


def main(words: Sequence[str]) -> None:
    """Read the command line and write the folder."""
    given = parse(words)
    check_new(given.folder)
    config = shape_of(given)
    check_words(config, given.tokenizer)
    size = parameter_count(config) * float_dtype(given.dtype).itemsize
    # The folder is written beside its final place and renamed when it is complete.
    command.check_room(given.folder.resolve().parent, size, "name another folder, or give a smaller model (--layers)")
    shard = int(given.shard_gigabytes * 1e9)
    write_random_llama(
        given.folder.resolve(),
        config,
        dtype=given.dtype,
        seed=given.seed,
        max_shard_bytes=shard,
        tokenizer=given.tokenizer,
    )
    size = sum(path.stat().st_size for path in given.folder.glob("*.safetensors"))
    print(f"{given.folder}: {parameter_count(config):,} parameters, {size / 1e9:.2f} GB")


def check_new(folder: Path) -> None:
    """Raise `UserError` unless `folder` is missing or empty."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a new folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; name a new folder")
    if os.path.ismount(folder):
        raise UserError(f"{folder}: is where a disk is mounted, which cannot be replaced; name a folder in it")


def shape_of(given: argparse.Namespace) -> ModelConfig:
    """Return the shape that the options describe.

    Raises:
      UserError: --like names no known model, or the numbers describe no Llama.
    """
    if given.like not in PUBLISHED and not Path(given.like).expanduser().is_dir() and not HUB_ID.fullmatch(given.like):
        known = ", ".join(PUBLISHED)
        raise UserError(f"--like {given.like}: no such folder, nor a hub id (owner/name); known here are {known}")
    config, _ = read_shape(given.like)
    width, heads = given.width or config.hidden_size, given.heads or config.num_attention_heads
    sizes = {
        "num_hidden_layers": given.layers,
        "hidden_size": given.width,
        "intermediate_size": given.inner,
        "num_attention_heads": given.heads,
        "num_key_value_heads": given.heads,
        "vocab_size": given.vocabulary,
    }
    if given.width or given.heads:
        if width % (2 * heads):
            raise UserError(
                f"--width {width}, --heads {heads}: a head is width / heads wide, which must be an even number; give a "
                f"width that is a multiple of {2 * heads}, or other heads"
            )
        sizes["head_dim"] = width // heads
    return dataclasses.replace(config, **{name: size for name, size in sizes.items() if size is not None})


def check_words(config: ModelConfig, tokenizer: Path | None) -> None:
    """Raise `UserError` if `tokenizer` (None: of bytes) is missing or has ids beyond the vocabulary."""
    if tokenizer is None:
        from jaxforget.demo.tokenizer import train_tokenizer

        ids, whose = train_tokenizer([], 0).get_vocab().values(), "the tokenizer of bytes"
    elif not tokenizer.is_dir():
        raise UserError(f"--tokenizer {tokenizer}: no such folder; name one that holds tokenizer.json")
    else:
        from jaxforget.models.tokenizer import load_tokenizer

        ids, whose = load_tokenizer(tokenizer).get_vocab().values(), f"the tokenizer of {tokenizer}"
    eos = config.eos_token_id if isinstance(config.eos_token_id, tuple) else (config.eos_token_id,)
    least = 1 + max(*ids, *(token for token in (config.bos_token_id, *eos) if token is not None))
    if config.vocab_size < least:
        raise UserError(
            f"{config.vocab_size} tokens are too few for {whose} and the special tokens; "
            f"give --vocabulary {least} or more"
        )


if __name__ == "__main__":
    command.run(__file__, main)
