"""What a Llama is: the numbers of its `config.json`, checked."""

import dataclasses
from typing import Any

from jaxforget.errors import UserError


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched: `kind` is `linear` (uses `factor` alone) or `llama3` (all)."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of a Llama, names as in Hugging Face's `LlamaConfig`. Hashable, so a jit can close over it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    logit_soft_cap: float | None = None

    @classmethod
    def from_hf(cls, raw: dict[str, Any], *, source: str = "config.json") -> "ModelConfig":
        """Reads a parsed `config.json`, old (`rope_theta`, `rope_scaling`) or new (`rope_parameters`).

        Raises:
          UserError: not a Llama, a key is missing, or it asks for what this forward pass does not compute.
        """
        if raw.get("model_type") != "llama":
            raise UserError(
                f"{source}: model_type is {raw.get('model_type')!r}; "
                "only 'llama' (Llama 2, Llama 3.x, TinyLlama) is supported"
            )
        if raw.get("hidden_act", "silu") != "silu":
            raise UserError(
                f"{source}: hidden_act is {raw['hidden_act']!r}; Llama uses 'silu' and only that is supported"
            )
        if raw.get("quantization_config"):
            raise UserError(f"{source}: quantization_config is set; start from the unquantised checkpoint")
        required = (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
        )
        for key in required:
            if not isinstance(raw.get(key), int) or raw[key] < 1:
                raise UserError(f"{source}: {key} is {raw.get(key)!r}; it must be a positive whole number")
        heads = raw["num_attention_heads"]
        kv_heads = raw.get("num_key_value_heads") or heads
        if heads % kv_heads:
            raise UserError(
                f"{source}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if not raw.get("head_dim") and raw["hidden_size"] % heads:
            raise UserError(
                f"{source}: hidden_size {raw['hidden_size']} is not a multiple of num_attention_heads {heads}"
            )
        head_dim = raw.get("head_dim") or raw["hidden_size"] // heads
        if head_dim % 2:
            raise UserError(f"{source}: head_dim is {head_dim}; rotary embeddings need an even number")
        for key in ("rope_scaling", "rope_parameters"):
            if not isinstance(raw.get(key) or {}, dict):
                raise UserError(f"{source}: {key} is {raw[key]!r}; it must be an object of settings, or null")
        rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
        eos = raw.get("eos_token_id")
        return cls(
            **{key: raw[key] for key in required},
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=raw.get("rms_norm_eps", 1e-6),
            rope_theta=float(rope.get("rope_theta", raw.get("rope_theta", 10_000.0))),
            rope_scaling=_rope_scaling(rope, raw, source),
            max_position_embeddings=raw.get("max_position_embeddings", 2048),
            tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
            attention_bias=bool(raw.get("attention_bias", False)),
            mlp_bias=bool(raw.get("mlp_bias", False)),
            bos_token_id=raw.get("bos_token_id"),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
        )


def _rope_scaling(rope: dict[str, Any], raw: dict[str, Any], source: str) -> RopeScaling | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "llama3"):
        raise UserError(f"{source}: rope scaling {kind!r} is not supported; 'linear' and 'llama3' are")
    names = (
        ("factor",) if kind == "linear" else tuple(f.name for f in dataclasses.fields(RopeScaling) if f.name != "kind")
    )
    fallback = {"original_max_position_embeddings": raw.get("original_max_position_embeddings")}
    values = {name: rope.get(name, fallback.get(name)) for name in names}
    for name, value in values.items():
        if not isinstance(value, int | float):
            raise UserError(f"{source}: rope scaling {kind!r} lacks {name}")
    return RopeScaling(kind=kind, **values)
