"""Shapes of published models, for plans without a connection to the hub: numbers of their config.json."""

import dataclasses
from pathlib import Path

from jaxforget.errors import UserError, first_line
from jaxforget.models.config import ModelConfig, RopeScaling
from jaxforget.models.folders import HUB_ID, read_config

_LLAMA_3_ROPE = RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)
_LLAMA_2_7B = ModelConfig(32_000, 4096, 11_008, 32, 32, 32, 128)
_LLAMA_2_13B = ModelConfig(32_000, 5120, 13_824, 40, 40, 40, 128)
_LLAMA_2_70B = ModelConfig(32_000, 8192, 28_672, 80, 64, 8, 128)
_LLAMA_3_8B = ModelConfig(128_256, 4096, 14_336, 32, 32, 8, 128, rope_theta=500_000.0, max_position_embeddings=8192)
_LLAMA_31_8B = dataclasses.replace(_LLAMA_3_8B, rope_scaling=_LLAMA_3_ROPE, max_position_embeddings=131_072)
_TINYLLAMA = ModelConfig(32_000, 2048, 5632, 22, 32, 4, 64, max_position_embeddings=2048)
_LLAMA_32_1B = ModelConfig(
    *(128_256, 2048, 8192, 16, 32, 8, 64),
    rope_theta=500_000.0,
    rope_scaling=RopeScaling("llama3", 32.0, 1.0, 4.0, 8192),
    max_position_embeddings=131_072,
    tie_word_embeddings=True,
)
_ZEPHYR_7B = ModelConfig(
    *(32_000, 4096, 14_336, 32, 32, 8, 128), max_position_embeddings=32_768, family="mistral", windows=(4096,) * 32
)
_QWEN = {"rms_norm_eps": 1e-6, "rope_theta": 1e6}
_QWEN_25_7B = ModelConfig(
    152_064, 3584, 18_944, 28, 28, 4, 128, max_position_embeddings=32_768, family="qwen2", **_QWEN
)
_QWEN_3_8B = ModelConfig(151_936, 4096, 12_288, 36, 32, 8, 128, max_position_embeddings=40_960, family="qwen3", **_QWEN)
_GEMMA_2_9B = ModelConfig(
    *(256_000, 3584, 14_336, 42, 16, 8, 256),
    rms_norm_eps=1e-6,
    max_position_embeddings=8192,
    tie_word_embeddings=True,
    hidden_act="gelu_pytorch_tanh",
    family="gemma2",
    logit_soft_cap=30.0,
    attention_soft_cap=50.0,
    query_scale=256,
    windows=(4096, None) * 21,
)

# Token ids, which no plan needs, are left at their defaults.
PUBLISHED: dict[str, ModelConfig] = {
    "meta-llama/Llama-2-7b-hf": _LLAMA_2_7B,
    "meta-llama/Llama-2-7b-chat-hf": _LLAMA_2_7B,
    "meta-llama/Llama-2-13b-hf": _LLAMA_2_13B,
    "meta-llama/Llama-2-13b-chat-hf": _LLAMA_2_13B,
    "meta-llama/Llama-2-70b-hf": _LLAMA_2_70B,
    "meta-llama/Llama-2-70b-chat-hf": _LLAMA_2_70B,
    "meta-llama/Meta-Llama-3-8B": _LLAMA_3_8B,
    "meta-llama/Meta-Llama-3-8B-Instruct": _LLAMA_3_8B,
    "meta-llama/Llama-3.1-8B": _LLAMA_31_8B,
    "meta-llama/Llama-3.1-8B-Instruct": _LLAMA_31_8B,
    "meta-llama/Llama-3.2-1B": _LLAMA_32_1B,
    "meta-llama/Llama-3.2-1B-Instruct": _LLAMA_32_1B,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _TINYLLAMA,
    "HuggingFaceH4/zephyr-7b-beta": _ZEPHYR_7B,
    "mistralai/Mistral-7B-v0.1": _ZEPHYR_7B,
    "Qwen/Qwen2.5-7B-Instruct": _QWEN_25_7B,
    "Qwen/Qwen3-8B": _QWEN_3_8B,
    "google/gemma-2-9b": _GEMMA_2_9B,
    "google/gemma-2-9b-it": _GEMMA_2_9B,
}


def read_shape(place: str) -> tuple[ModelConfig, str]:
    """Return the shape of a model and where it was read: its folder's config.json, the table above, or the hub.

    No weights are needed.

    Raises:
      UserError: none of the three has it.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        return read_config(path)[0], str(path / "config.json")
    if place in PUBLISHED:
        return PUBLISHED[place], f"the published config of {place}"
    hub_id = HUB_ID.fullmatch(place)
    if not hub_id:
        if "://" in place:
            raise UserError(
                f"{place}: a plan reads config.json alone; copy that to a local folder, and name the folder"
            )
        if path.exists():
            raise UserError(f"{path}: is a file; give the model's folder, the one that holds config.json")
        raise UserError(f"{place}: no such folder; a plan reads a local folder's config.json, or a hub id's")
    import huggingface_hub

    try:
        found = huggingface_hub.hf_hub_download(hub_id["repository"], "config.json", revision=hub_id["revision"])
    # The hub's client lets its transport's errors through, and that transport has changed between versions.
    except Exception as error:
        raise UserError(
            f"{place}: its config.json could not be read from the hub ({first_line(error)}); give a folder that "
            f"holds it, or one of {', '.join(PUBLISHED)}"
        ) from None
    return read_config(Path(found).parent)[0], found
