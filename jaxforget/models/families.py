"""Families of models as data: what each one computes differently from Llama, and how its checkpoints name tensors.

A family is one row of `FAMILIES`, keyed by the `model_type` of its `config.json`. `README.md` beside this file says how
to add one. The rows describe what `transformers` computes; the tests compare each of them with it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

Settings = Mapping[str, Any]  # the keys of a config.json, missing ones filled with the family's defaults
Windows = list[bool]  # for every layer, True where it sees a sliding window only

# Parameters of a layer -> modules of the checkpoint. Parameters that share a module are stored as one tensor, joined
# along its outputs in the order of the table.
LLAMA_NAMES = {
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
}
HEAD_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
AFTER_NORMS = {"attention_out_norm": "post_attention_layernorm", "mlp_out_norm": "post_feedforward_layernorm"}
GEMMA_NAMES = LLAMA_NAMES | AFTER_NORMS | {"mlp_norm": "pre_feedforward_layernorm"}
OLMO_NAMES = {name: LLAMA_NAMES[name] for name in LLAMA_NAMES if not name.endswith("norm")} | AFTER_NORMS | HEAD_NORMS
PHI_NAMES = LLAMA_NAMES | dict.fromkeys("qkv", "self_attn.qkv_proj") | dict.fromkeys(("gate", "up"), "mlp.gate_up_proj")


def _no_layer(settings: Settings) -> Windows:
    return [False] * settings["num_hidden_layers"]


def _every_layer(settings: Settings) -> Windows:
    return [settings["sliding_window"] is not None] * settings["num_hidden_layers"]


def _late_layers(settings: Settings) -> Windows:
    slides = settings["use_sliding_window"] and settings["sliding_window"] is not None
    return [slides and layer >= settings["max_window_layers"] for layer in range(settings["num_hidden_layers"])]


def _all_but_every_nth(settings: Settings) -> Windows:
    period = settings.get("sliding_window_pattern", 2)
    return [(layer + 1) % period != 0 for layer in range(settings["num_hidden_layers"])]


def _layers_without_rope(settings: Settings) -> Windows:
    slides = settings["use_sliding_window"] and settings["sliding_window"] is not None
    return [slides and not rotates for rotates in rotating_layers(settings)]


def rotating_layers(settings: Settings) -> list[bool]:
    """For every layer, True where queries and keys are rotated by position."""
    depth = settings["num_hidden_layers"]
    if settings.get("no_rope_layers") is not None:
        return [bool(rotates) for rotates in settings["no_rope_layers"][:depth]]
    period = settings.get("no_rope_layer_interval")
    return [period is None or (layer + 1) % period != 0 for layer in range(depth)]


@dataclasses.dataclass(frozen=True)
class Family:
    """One family: switches of the layer function, names of tensors, and keys of `config.json`.

    Attributes:
      architecture: class of `transformers` that loads an exported model.
      names: parameters of a layer -> modules of the checkpoint. A norm that is not named does not exist.
      settings: keys of `config.json` that this family reads beyond those of every family, and values that differ from
        the common ones, as `transformers` fills them in where the file has none.
      fixed: keys that change the mathematics, which `transformers` does not read in this family -> values that they may
        have, because they describe what it computes anyway. Other values are refused.
      biased: dense layers that always have a bias.
      norm_offset: added to the scale of a norm, whose product is then taken in fp32. None: the scale multiplies the
        normed values after they are rounded to the compute dtype, as in Llama.
      norm_each_head: q_norm and k_norm normalise each head; False: all heads together.
      scaled_embedding: embeddings are multiplied by the square root of their width.
      activation_key: key of the feed-forward part's activation.
      slides: which layers see a sliding window, where no `layer_types` says so.
      own_rope_for_windows: layers with a sliding window rotate by a base of their own.
      rope_kinds: rope types that are computed.
    """

    architecture: str
    names: Mapping[str, str] = dataclasses.field(default_factory=lambda: LLAMA_NAMES)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    fixed: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    biased: tuple[str, ...] = ()
    norm_offset: float | None = None
    norm_each_head: bool = True
    scaled_embedding: bool = False
    activation_key: str = "hidden_act"
    slides: Callable[[Settings], Windows] = _no_layer
    own_rope_for_windows: bool = False
    rope_kinds: tuple[str, ...] = ("default", "linear", "llama3")


_QWEN = {
    "num_key_value_heads": 32,
    "max_position_embeddings": 32_768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}
_GEMMA = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "attention_bias": False,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "layer_types": None,
}

FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", settings={"attention_bias": False, "mlp_bias": False}),
    "mistral": Family(
        "MistralForCausalLM",
        settings={"num_key_value_heads": 8, "max_position_embeddings": 131_072, "sliding_window": 4096},
        slides=_every_layer,
    ),
    "qwen2": Family(
        "Qwen2ForCausalLM",
        settings=_QWEN,
        fixed={"attention_bias": (True,)},
        biased=("q", "k", "v"),
        slides=_late_layers,
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM",
        names=LLAMA_NAMES | HEAD_NORMS,
        settings=_QWEN | {"head_dim": 128, "attention_bias": False},
        slides=_late_layers,
    ),
    "gemma2": Family(
        "Gemma2ForCausalLM",
        names=GEMMA_NAMES,
        settings=_GEMMA
        | {"max_position_embeddings": 8192, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0},
        fixed={"sliding_window_pattern": (2,)},
        norm_offset=1.0,
        scaled_embedding=True,
        activation_key="hidden_activation",
        slides=_all_but_every_nth,
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        names=GEMMA_NAMES | HEAD_NORMS,
        settings=_GEMMA
        | {"max_position_embeddings": 131_072, "final_logit_softcapping": None, "sliding_window_pattern": 6}
        | {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0},
        norm_offset=1.0,
        scaled_embedding=True,
        activation_key="hidden_activation",
        slides=_all_but_every_nth,
        own_rope_for_windows=True,
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM",
        names=OLMO_NAMES,
        settings={"rms_norm_eps": 1e-5, "attention_bias": False},
        norm_offset=0.0,
        norm_each_head=False,
    ),
    "phi3": Family(
        "Phi3ForCausalLM",
        names=PHI_NAMES,
        settings={"rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "sliding_window": None}
        | {"partial_rotary_factor": 1.0},
        slides=_every_layer,
        rope_kinds=("default",),
    ),
    "smollm3": Family(
        "SmolLM3ForCausalLM",
        settings={"num_key_value_heads": 4, "max_position_embeddings": 32_768, "tie_word_embeddings": True}
        | {"use_sliding_window": False, "sliding_window": None, "layer_types": None, "rope_theta": 2_000_000.0}
        | {"no_rope_layers": None, "no_rope_layer_interval": 4, "attention_bias": False, "mlp_bias": False},
        slides=_layers_without_rope,
    ),
}
