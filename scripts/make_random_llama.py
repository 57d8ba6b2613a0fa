#!/usr/bin/env python3
"""Writes a Hugging Face folder with the shape of a Llama and random weights, a tensor at a time; .venv/bin/python.

Llama-2-7B in bfloat16 unless told otherwise: 13.5 GB in files of at most 10 GB, so two of them. What loading, saving
and training cost does not depend on what the weights are. The tokenizer knows bytes only, unless one is given to copy.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxforget.demo.tokenizer import save_tokenizer, train_tokenizer
from jaxforget.errors import UserError
from jaxforget.models.config import LlamaConfig
from jaxforget.models.export import config_to_hf, export_order, write_model
from jaxforget.models.layout import parameter_count
from jaxforget.models.load import float_dtype
from jaxforget.models.published import PUBLISHED, read_shape

CARD = "# A Llama's shape\n\nRandom weights, made by jaxforget's scripts/make_random_llama.py: it says nothing.\n"
SPREAD = 0.02  # standard deviation of every kernel, as initialisation has it
CHUNK = 1 << 22  # numbers drawn at a time


def random_tensors(config: LlamaConfig, dtype: np.dtype, seed: int) -> Iterator[np.ndarray]:
    """The tensors of `export_order`, one at a time: kernels normal, norms one, biases zero."""
    rng = np.random.default_rng(seed)
    for _, leaf, _ in export_order(config):
        out = np.empty(leaf.stored_shape, dtype)
        flat = out.reshape(-1)
        if leaf.name.endswith(("scale", "bias")):
            flat[:] = leaf.name.endswith("scale")
        else:
            for start in range(0, flat.size, CHUNK):
                part = flat[start : start + CHUNK]
                part[:] = rng.standard_normal(part.size, np.float32) * np.float32(SPREAD)
        yield out


def write_random_llama(
    folder: Path,
    config: LlamaConfig,
    *,
    dtype: str = "bfloat16",
    seed: int = 0,
    max_shard_bytes: int = 10_000_000_000,
    tokenizer: Path | None = None,
) -> None:
    """Writes `folder` whole or not at all; memory: one tensor."""
    stored = float_dtype(dtype)
    raw = config_to_hf(config)
    tensors = random_tensors(config, stored, seed)
    write_model(folder, tensors, config, raw, tokenizer, stored, max_shard_bytes, CARD)
    if tokenizer is None:
        save_tokenizer(train_tokenizer([], 0), folder)


def main() -> None:
    """Reads the command line and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--like", default="meta-llama/Llama-2-7b-hf", help=f"{', '.join(PUBLISHED)}, or a folder")
    parser.add_argument("--layers", type=int, help="instead of the model's own number, as are the next ones")
    parser.add_argument("--width", type=int, help="of the hidden states")
    parser.add_argument("--inner", type=int, help="width of the feed-forward part")
    parser.add_argument("--heads", type=int, help="attention heads; as many key and value heads")
    parser.add_argument("--words", type=int, help="size of the vocabulary")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"))
    parser.add_argument("--shard-gigabytes", type=float, default=10.0, help="largest file, 1e9 bytes [10]")
    parser.add_argument("--tokenizer", type=Path, help="a folder whose tokenizer is copied")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        config = shape_of(given)
        if given.folder.exists() and any(given.folder.iterdir()):
            raise UserError(f"{given.folder}: is not empty; name a new folder")
        shard = int(given.shard_gigabytes * 1e9)
        write_random_llama(
            given.folder, config, dtype=given.dtype, seed=given.seed, max_shard_bytes=shard, tokenizer=given.tokenizer
        )
    except UserError as error:
        sys.exit(f"make_random_llama: {error}")
    size = sum(path.stat().st_size for path in given.folder.glob("*.safetensors"))
    print(f"{given.folder}: {parameter_count(config):,} parameters, {size / 1e9:.2f} GB")


def shape_of(given: argparse.Namespace) -> LlamaConfig:
    """The shape that the options describe.

    Raises:
      UserError: numbers that make no Llama.
    """
    config, _ = read_shape(given.like)
    sizes = {
        "num_hidden_layers": given.layers,
        "hidden_size": given.width,
        "intermediate_size": given.inner,
        "num_attention_heads": given.heads,
        "num_key_value_heads": given.heads,
        "vocab_size": given.words,
    }
    if given.width or given.heads:
        heads = given.heads or config.num_attention_heads
        sizes["head_dim"] = (given.width or config.hidden_size) // heads if heads > 0 else 0
    config = dataclasses.replace(config, **{name: size for name, size in sizes.items() if size is not None})
    return LlamaConfig.from_hf(config_to_hf(config), source="options")


if __name__ == "__main__":
    main()
