"""A Llama small enough to compile for a TPU in seconds, and one that no chip holds: config.json files, no weights."""

import json
from pathlib import Path
from typing import Any

from jaxforget.config import Config, config_from
from jaxforget.tpu.compiler import Compiled

WIDTH, INNER, LAYERS, HEADS, KEY_HEADS, WORDS, LENGTH = 128, 256, 2, 2, 2, 512, 32
HEAD = WIDTH // HEADS
# Weights of a layer's seven products, by name.
PRODUCTS = {
    "q": WIDTH * HEADS * HEAD,
    "k": WIDTH * KEY_HEADS * HEAD,
    "v": WIDTH * KEY_HEADS * HEAD,
    "o": HEADS * HEAD * WIDTH,
    "gate": WIDTH * INNER,
    "up": WIDTH * INNER,
    "down": INNER * WIDTH,
}


def model_folder(folder: Path, width: int = WIDTH, inner: int = INNER, positions: int = 64) -> Path:
    """A folder that holds config.json and nothing else."""
    folder.mkdir(parents=True)
    raw = {
        "model_type": "llama",
        "vocab_size": WORDS,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "max_position_embeddings": positions,
    }
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


def tiny_values(model: Path | str) -> dict[str, Any]:
    """A run on it: 16 blocks of 32 tokens a step."""
    return {
        "model": {"folder": str(model)},
        "blocks": {"length": LENGTH},
        "targets": {"tile": 32},
        "reinforce": {"batch": 16},
        "forget": {"batch": 16},
    }


def tiny_config(model: Path | str, *overrides: str) -> Config:
    """`tiny_values` as a configuration."""
    return config_from(tiny_values(model), overrides)


def memory_of(config, per_block: float, fixed: float) -> Compiled:
    """A stand-in compiler: memory in a line with a microbatch's blocks."""
    options = config.forget
    peak = fixed + per_block * options.batch / options.accumulate - (2**30 if options.moment_dtype == "bfloat16" else 0)
    fits = peak <= 15.75 * 2**30
    refusal = None if fits else "RESOURCE_EXHAUSTED: too much"
    return Compiled(fits, 1.0, int(peak), 1, 1, 1, {}, 0, refusal=refusal)
