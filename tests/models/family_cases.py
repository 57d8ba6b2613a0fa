"""Tiny random models of every family, as transformers makes and saves them: fixed configurations and random ones."""

import random
from pathlib import Path
from typing import Any

import torch
import transformers

WINDOW = 6
BASE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 32}
LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}
KINDS = ["full_attention", "sliding_attention", "full_attention"]
GEMMA3_ROPES = {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}}

# What differs from `BASE`, for each family: at least three ways in which models of it differ from each other.
CASES: dict[str, list[dict[str, Any]]] = {
    "llama": [{}, {"attention_bias": True, "mlp_bias": True, "head_dim": 12}, {"rope_parameters": LLAMA3}],
    "mistral": [
        {"sliding_window": WINDOW},
        {"sliding_window": None, "head_dim": 12, "tie_word_embeddings": True},
        {"sliding_window": 100, "num_key_value_heads": 4, "rope_parameters": LINEAR},
    ],
    "qwen2": [
        {},
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, "tie_word_embeddings": True},
        {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": KINDS, "num_key_value_heads": 1},
    ],
    "qwen3": [
        {"head_dim": 12},
        {"attention_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 4},
        {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 2, "rope_parameters": LINEAR},
    ],
    "gemma2": [
        {"sliding_window": WINDOW, "query_pre_attn_scalar": 20, "attn_logit_softcapping": 3.0},
        {"sliding_window": 100, "attn_logit_softcapping": None, "final_logit_softcapping": None, "head_dim": 12},
        {"sliding_window": WINDOW, "layer_types": KINDS, "attention_bias": True, "tie_word_embeddings": False}
        | {"final_logit_softcapping": 2.0, "num_key_value_heads": 4},
    ],
    "gemma3_text": [
        {"sliding_window": WINDOW, "num_hidden_layers": 7},
        {"sliding_window": WINDOW, "layer_types": KINDS, "rope_parameters": GEMMA3_ROPES, "head_dim": 12},
        {"sliding_window": 100, "final_logit_softcapping": 5.0, "query_pre_attn_scalar": 5, "attention_bias": True},
    ],
    "olmo2": [
        {},
        {"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_parameters": LLAMA3},
        {"attention_bias": True, "head_dim": 12, "num_key_value_heads": 1},
    ],
    "phi3": [
        {"sliding_window": WINDOW},
        {"partial_rotary_factor": 0.5, "num_key_value_heads": 4},
        {"tie_word_embeddings": True, "num_key_value_heads": 1, "hidden_size": 48, "partial_rotary_factor": 0.25}
        | {"head_dim": 16, "num_attention_heads": 3},
    ],
    "smollm3": [
        {"num_hidden_layers": 5},
        {"no_rope_layers": [1, 0, 1], "tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True},
        {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": WINDOW, "head_dim": 12},
    ],
}


def random_case(family: str, seed: int) -> dict[str, Any]:
    """Return random differences from `BASE` that the family's configuration has keys for."""
    rng = random.Random(f"{family} {seed}")
    key_heads = rng.choice([1, 2, 3])
    case = {
        "num_key_value_heads": key_heads,
        "num_attention_heads": key_heads * rng.choice([1, 2]),
        "num_hidden_layers": rng.randint(1, 5),
        "head_dim": rng.choice([4, 8, 10, 16]),
        "hidden_size": 12 * rng.randint(1, 4),
        "intermediate_size": rng.randint(1, 50),
        "vocab_size": rng.randint(20, 90),
        "tie_word_embeddings": rng.random() < 0.5,
        "rms_norm_eps": rng.choice([1e-5, 1e-6, 1e-3]),
    }
    optional = {
        "attention_bias": rng.random() < 0.5,
        "mlp_bias": rng.random() < 0.5,
        "sliding_window": rng.choice([1, 3, WINDOW, 200]),
        "use_sliding_window": rng.random() < 0.7,
        "max_window_layers": rng.randint(0, 5),
        "query_pre_attn_scalar": rng.randint(1, 30),
        "attn_logit_softcapping": rng.choice([None, 1.0, 20.0]) if family == "gemma2" else None,
        "final_logit_softcapping": rng.choice([None, 2.0, 30.0]),
        "no_rope_layer_interval": rng.randint(1, 4),
    }
    known = transformers.CONFIG_MAPPING[family]()
    if family in ("mistral", "phi3") and rng.random() < 0.4:
        optional["sliding_window"] = None
    return case | {key: value for key, value in optional.items() if hasattr(known, key)}


def save_family(folder: Path, family: str, case: dict[str, Any]) -> Any:
    """Make a random model of the family, save it in `folder` as transformers does, and return it."""
    torch.manual_seed(0)
    values = BASE | case
    if family == "phi3" and values["head_dim"] * values["num_attention_heads"] != values["hidden_size"]:
        values["hidden_size"] = values["head_dim"] * values["num_attention_heads"]
    if values["hidden_size"] % values["num_attention_heads"]:
        values["hidden_size"] *= values["num_attention_heads"]
    # Ids of special tokens beyond so small a vocabulary are refused.
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    config = transformers.CONFIG_MAPPING[family](**values, **ids)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:  # as initialised, all norms are alike and biases 0: a swapped one would not show
                parameter += 0.3 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    return model
