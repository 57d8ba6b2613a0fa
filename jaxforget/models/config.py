"""The shape of a model: the numbers of its `config.json`, checked."""

import dataclasses
import functools
from typing import Any

from jaxforget.errors import UserError
from jaxforget.models.families import FAMILIES, Family, rotating_layers

REQUIRED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
# Keys that every family reads, and what `transformers` takes where a file has none.
COMMON = {
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
# Keys that change the mathematics of some family. A family that does not read one refuses any value that is set.
MATHEMATICAL = (
    *("attention_bias", "mlp_bias", "sliding_window", "sliding_window_pattern", "layer_types", "no_rope_layers"),
    *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "rope_local_base_freq"),
    *("partial_rotary_factor", "use_bidirectional_attention", "is_encoder_decoder", "per_layer_config", "alibi"),
    *("attention_chunk_size", "attn_temperature_tuning", "clip_qkv", "qk_layernorm", "qk_norm", "use_qk_norm"),
    *("use_qkv_bias", "logit_scale", "logits_scaling", "attention_multiplier", "embedding_multiplier"),
    *("residual_multiplier", "scale_emb", "scale_depth", "dim_model_base", "parallel_attn", "use_parallel_residual"),
    *("kv_lora_rank", "cross_attention_layers", "hidden_size_per_layer_input", "num_kv_shared_layers"),
)
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_per_tok")
NEUTRAL = (None, False, 0, "", [], {})
ROPE_KEYS = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Scaling of rotary frequencies: `kind` is `linear` (uses `factor` alone) or `llama3` (uses every field)."""

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Shape of a model, names as in Hugging Face's `LlamaConfig`. Hashable, so a jit can close over it.

    Attributes:
      hidden_act: activation of the feed-forward part, one of `ACTIVATIONS`.
      family: key of `families.FAMILIES`.
      logit_soft_cap: logits x become c * tanh(x / c); None: they stay.
      attention_soft_cap: the same for attention scores.
      query_scale: attention scores are multiplied by its inverse square root; None: `head_dim`.
      windows: for every layer, the number of positions up to its own that a query sees; None: all of them. Empty: all
        of them in every layer.
      rotating: for every layer, False where queries and keys are not rotated. Empty: all are.
      rotary_width: numbers of each head that are rotated; None: `head_dim`.
      window_rope: base and scaling of the rotation in layers with a window; None: those of the other layers.
    """

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
    hidden_act: str = "silu"
    family: str = "llama"
    logit_soft_cap: float | None = None
    attention_soft_cap: float | None = None
    query_scale: float | None = None
    windows: tuple[int | None, ...] = ()
    rotating: tuple[bool, ...] = ()
    rotary_width: int | None = None
    window_rope: tuple[float, RopeScaling | None] | None = None

    @property
    def row(self) -> Family:
        """The row of `families.FAMILIES`."""
        return FAMILIES[self.family]

    def has_bias(self, dense: str) -> bool:
        """Return True if the dense layer `dense` ("q") has a bias."""
        return dense in self.row.biased or (self.attention_bias if dense in ("q", "k", "v", "o") else self.mlp_bias)

    @classmethod
    def from_hf(cls, raw: dict[str, Any], *, source: str = "config.json") -> "ModelConfig":
        """Read a parsed `config.json`, old (`rope_theta`, `rope_scaling`) or new (`rope_parameters`).

        Args:
          raw: the parsed file.
          source: its name in messages.

        Raises:
          UserError: the family is not known, a key is missing, sizes do not divide each other, or a key asks for what
            this package does not compute.
        """
        row = _family(raw, source)
        _check_keys(raw, row, source)
        settings = {**COMMON, **row.settings, **raw}
        heads, kv_heads = settings["num_attention_heads"], settings["num_key_value_heads"] or raw["num_attention_heads"]
        if heads % kv_heads:
            raise UserError(
                f"{source}: num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"
            )
        if not settings["head_dim"] and raw["hidden_size"] % heads:
            raise UserError(
                f"{source}: hidden_size {raw['hidden_size']} is not a multiple of num_attention_heads {heads}"
            )
        head_dim = settings["head_dim"] or raw["hidden_size"] // heads
        if head_dim % 2:
            raise UserError(f"{source}: head_dim is {head_dim}; rotary embeddings need an even number")
        eos = raw.get("eos_token_id")
        slides = _sliding_layers(settings, row, source)
        rotating = tuple(rotating_layers(settings)) if "no_rope_layers" in row.settings else ()
        (theta, scaling, width), window_rope = _ropes(raw, settings, row, head_dim, source)
        number = functools.partial(_number, settings, source)
        return cls(
            **{key: raw[key] for key in REQUIRED},
            num_key_value_heads=kv_heads,
            head_dim=head_dim,
            rms_norm_eps=number("rms_norm_eps"),
            rope_theta=theta,
            rope_scaling=scaling,
            max_position_embeddings=settings["max_position_embeddings"],
            tie_word_embeddings=bool(settings["tie_word_embeddings"]),
            attention_bias="attention_bias" in row.settings and bool(settings["attention_bias"]),
            mlp_bias="mlp_bias" in row.settings and bool(settings["mlp_bias"]),
            bos_token_id=raw.get("bos_token_id"),
            eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
            hidden_act=settings[row.activation_key],
            family=raw["model_type"],
            logit_soft_cap=number("final_logit_softcapping") if "final_logit_softcapping" in row.settings else None,
            attention_soft_cap=number("attn_logit_softcapping") if "attn_logit_softcapping" in row.settings else None,
            query_scale=number("query_pre_attn_scalar") if "query_pre_attn_scalar" in row.settings else None,
            windows=tuple(settings["sliding_window"] if slide else None for slide in slides) if any(slides) else (),
            rotating=() if all(rotating) else rotating,
            rotary_width=width,
            window_rope=window_rope,
        )


def _family(raw: dict[str, Any], source: str) -> Family:
    """Return the row of the model's family; refuse any other kind of model by name."""
    kind = raw.get("model_type")
    inner = raw.get("text_config") or raw.get("llm_config") or raw.get("language_config")
    parts = [key.removesuffix("_config") for key in ("vision_config", "audio_config", "speech_config") if key in raw]
    if inner is not None or parts:
        inner = inner.get("model_type") if isinstance(inner, dict) else None
        text = f" around a text model of model_type {inner!r}" if inner else ""
        beside = f" with a part for {' and '.join(parts)}" if parts else ""
        raise UserError(
            f"{source}: model_type {kind!r} is a multimodal wrapper{text}{beside}, which is not supported; "
            "save the text model alone with transformers, and give that folder"
        )
    experts = next((key for key in EXPERTS if raw.get(key) not in NEUTRAL), None)
    if experts is not None or "moe" in str(kind):
        what = f" ({experts} is {raw[experts]})" if experts else ""
        raise UserError(f"{source}: model_type {kind!r}{what} is a mixture of experts, which is not supported")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise UserError(f"{source}: model_type is {kind!r}, which is not supported; {', '.join(FAMILIES)} are")
    return FAMILIES[kind]


def _check_keys(raw: dict[str, Any], row: Family, source: str) -> None:
    """Refuse by name what a `config.json` asks for and this package does not compute."""
    kind = raw["model_type"]
    if raw.get("quantization_config"):
        raise UserError(f"{source}: quantization_config is set; start from the unquantised checkpoint")
    for key in REQUIRED:
        if not isinstance(raw.get(key), int) or isinstance(raw[key], bool) or raw[key] < 1:
            raise UserError(f"{source}: {key} is {raw.get(key)!r}; it must be a positive whole number")
    settings = {**COMMON, **row.settings, **raw}
    for key in ("num_key_value_heads", "head_dim", "sliding_window", "max_position_embeddings"):
        value = settings.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise UserError(f"{source}: {key} is {value!r}; it must be a positive whole number, or null")
    activation = settings[row.activation_key]
    if activation not in ACTIVATIONS:
        raise UserError(
            f"{source}: {row.activation_key} is {activation!r}, which is not supported; {' and '.join(ACTIVATIONS)} are"
        )
    for key in MATHEMATICAL:
        value = raw.get(key)
        if key in row.settings or value in NEUTRAL or value in row.fixed.get(key, ()):
            continue
        if (key == "layer_types" and set(value) == {"full_attention"}) or (key.endswith("factor") and value == 1):
            continue
        raise UserError(
            f"{source}: {key} is {value!r}, which changes the mathematics and is not supported for model_type {kind!r}"
        )


def _number(settings: dict[str, Any], source: str, key: str) -> float | None:
    value = settings[key]
    if value is None and key != "rms_norm_eps":
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        raise UserError(f"{source}: {key} is {value!r}; it must be a positive number")
    return value


def _sliding_layers(settings: dict[str, Any], row: Family, source: str) -> list[bool]:
    """Return for every layer whether it sees a sliding window."""
    depth, kinds = settings["num_hidden_layers"], settings.get("layer_types")
    listed = settings.get("no_rope_layers") if "no_rope_layers" in row.settings else None
    if "layer_types" not in row.settings:
        kinds = None
    for key, values in (("layer_types", kinds), ("no_rope_layers", listed)):
        if values is not None and (not isinstance(values, list) or len(values) < depth):
            raise UserError(f"{source}: {key} must list one value for each of the {depth} layers")
    for key in ("sliding_window_pattern", "no_rope_layer_interval"):
        if key in row.settings and (not isinstance(settings[key], int) or settings[key] < 1):
            raise UserError(f"{source}: {key} is {settings[key]!r}; it must be a positive whole number")
    if kinds is None:
        slides = row.slides(settings)
    else:
        unknown = [kind for kind in kinds if kind not in ("full_attention", "sliding_attention")]
        if unknown:
            raise UserError(f"{source}: layer_types holds {unknown[0]!r}, which is not supported")
        slides = [kind == "sliding_attention" for kind in kinds[:depth]]
    used = "use_sliding_window" not in row.settings or settings["use_sliding_window"]
    if any(slides) and (settings["sliding_window"] is None or not used):
        raise UserError(f"{source}: some layers have a sliding window, but sliding_window is not set or not used")
    return slides


def _ropes(
    raw: dict[str, Any], settings: dict[str, Any], row: Family, head_dim: int, source: str
) -> tuple[tuple[float, RopeScaling | None, int | None], tuple[float, RopeScaling | None] | None]:
    """Return (base, scaling, rotated width or None for all), and base and scaling of layers with a window."""
    for key in ("rope_scaling", "rope_parameters"):
        if not isinstance(raw.get(key) or {}, dict):
            raise UserError(f"{source}: {key} is {raw[key]!r}; it must be an object of settings, or null")
    # transformers reads the new key only where the old one is not set.
    given = dict(raw.get("rope_scaling") or raw.get("rope_parameters") or {})
    base = settings["rope_theta"]
    if not row.own_rope_for_windows:
        return _rope(given, base, raw, row, head_dim, source), None
    # One object for each kind of layer, or the old spelling, which scales layers without a window alone.
    nested = raw.get("rope_parameters") or {}
    if nested and not set(nested) <= {"full_attention", "sliding_attention"}:
        raise UserError(f"{source}: rope_parameters must hold full_attention and sliding_attention, and nothing else")
    full = {**(nested.get("full_attention") or {}), **(raw.get("rope_scaling") or {})}
    local = nested.get("sliding_attention") or {}
    theta, scaling, _ = _rope(local, settings["rope_local_base_freq"], raw, row, head_dim, source)
    return _rope(full, base, raw, row, head_dim, source), (theta, scaling)


def _rope(
    rope: dict[str, Any], base: Any, raw: dict[str, Any], row: Family, head_dim: int, source: str
) -> tuple[float, RopeScaling | None, int | None]:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("longrope", "su") or (kind == "yarn" and raw["model_type"] == "phi3"):
        raise UserError(f"{source}: rope scaling {kind!r} (longrope) is not supported; give a model without it")
    if kind not in row.rope_kinds:
        supported = " and ".join(repr(name) for name in row.rope_kinds if name != "default") or "none"
        raise UserError(f"{source}: rope scaling {kind!r} is not supported; for this model_type: {supported}")
    names = tuple(f.name for f in dataclasses.fields(RopeScaling) if f.name != "kind")
    unknown = [key for key in rope if key not in (*ROPE_KEYS, *names) and rope[key] not in NEUTRAL]
    if unknown:
        raise UserError(f"{source}: rope scaling holds {unknown[0]}, which is not supported")
    factor = rope.get("partial_rotary_factor", raw.get("partial_rotary_factor"))
    factor = 1.0 if factor is None else factor
    if factor != 1 and "partial_rotary_factor" not in row.settings:
        raise UserError(
            f"{source}: partial_rotary_factor is {factor!r}, which is not supported for {raw['model_type']!r}"
        )
    theta = _number({"rope_theta": rope.get("rope_theta", base)}, source, "rope_theta")
    if theta is None:
        raise UserError(f"{source}: rope_theta is null; it must be a positive number")
    if not isinstance(factor, int | float) or not 0 < int(head_dim * factor) <= head_dim:
        raise UserError(f"{source}: partial_rotary_factor is {factor!r}; it must be above 0 and at most 1")
    width = None if factor == 1 else int(head_dim * factor)
    if kind == "default":
        return float(theta), None, width
    names = ("factor",) if kind == "linear" else names
    old = raw.get("original_max_position_embeddings")
    values = {name: rope.get(name, old if name.startswith("original") else None) for name in names}
    for name, value in values.items():
        if not isinstance(value, int | float):
            raise UserError(f"{source}: rope scaling {kind!r} lacks {name}")
    return float(theta), RopeScaling(kind=kind, **values), width
