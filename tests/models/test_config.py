"""`config.json` in all its spellings, and what is refused in it."""

import pytest
import transformers

from jaxforget.errors import UserError
from jaxforget.models.config import ModelConfig, RopeScaling

RAW = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def test_defaults_are_transformers_defaults():
    ours = ModelConfig.from_hf(RAW)
    theirs = transformers.LlamaConfig(**{key: value for key, value in RAW.items() if key != "model_type"})
    assert ours.num_key_value_heads == theirs.num_key_value_heads
    assert ours.head_dim == theirs.head_dim
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert ours.max_position_embeddings == theirs.max_position_embeddings
    assert ours.tie_word_embeddings == theirs.tie_word_embeddings
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]


def test_old_and_new_spellings_of_rope_mean_the_same():
    old = ModelConfig.from_hf(RAW | {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}})
    new = ModelConfig.from_hf(RAW | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}})
    assert old == new
    assert old.rope_scaling == RopeScaling("llama3", **LLAMA3)
    oldest = ModelConfig.from_hf(RAW | {"rope_scaling": {"type": "linear", "factor": 2.0}})
    assert oldest.rope_scaling == RopeScaling("linear", 2.0)


def test_several_end_tokens_stay_hashable():
    config = ModelConfig.from_hf(RAW | {"eos_token_id": [128001, 128009]})
    assert config.eos_token_id == (128001, 128009)
    hash(config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "gpt2"}, "model_type is 'gpt2'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        (
            {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text"}, "vision_config": {}},
            "multimodal wrapper around a text model of model_type 'gemma3_text' with a part for vision",
        ),
        ({"model_type": "qwen2_audio", "audio_config": {}}, "multimodal wrapper with a part for audio"),
        ({"model_type": "mixtral", "num_local_experts": 8}, "(num_local_experts is 8) is a mixture of experts"),
        ({"model_type": "qwen3_moe"}, "'qwen3_moe' is a mixture of experts"),
        ({"model_type": "phi3", "rope_scaling": {"type": "longrope", "long_factor": [1.0]}}, "longrope"),
        ({"model_type": "phi3", "rope_scaling": {"type": "su", "long_factor": [1.0]}}, "longrope"),
        ({"model_type": "phi3", "rope_scaling": {"type": "linear", "factor": 2.0}}, "'linear' is not supported"),
        ({"model_type": "phi3", "partial_rotary_factor": 1.5}, "partial_rotary_factor is 1.5"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": {"type": "default", "mrope_section": [1, 2]}}, "mrope_section"),
        ({"rope_theta": None}, "rope_theta is null"),
        ({"sliding_window": 4096}, "sliding_window is 4096, which changes the mathematics"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
        ({"query_pre_attn_scalar": 100}, "query_pre_attn_scalar is 100"),
        ({"residual_multiplier": 0.22}, "residual_multiplier is 0.22"),
        ({"layer_types": ["sliding_attention"] * 3}, "layer_types is"),
        ({"model_type": "mistral", "num_key_value_heads": 2, "attention_bias": True}, "attention_bias is True"),
        ({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 0}, "sliding_window is 0"),
        ({"model_type": "olmo2", "mlp_bias": True}, "mlp_bias is True"),
        (
            {"model_type": "qwen2", "num_key_value_heads": 2, "layer_types": ["chunked_attention"] * 3},
            "'chunked_attention'",
        ),
        ({"model_type": "qwen2", "num_key_value_heads": 2, "layer_types": ["full_attention"]}, "each of the 3 layers"),
        (
            {"model_type": "qwen3", "num_key_value_heads": 2, "layer_types": ["sliding_attention"] * 3},
            "sliding_window is not set or not used",
        ),
        ({"model_type": "gemma2", "sliding_window": None}, "sliding_window is not set or not used"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
        ({"model_type": "gemma2", "hidden_activation": "gelu"}, "hidden_activation is 'gelu'"),
        ({"model_type": "gemma2", "sliding_window_pattern": 3}, "sliding_window_pattern is 3"),
        ({"model_type": "gemma3_text", "attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
        (
            {"model_type": "gemma3_text", "rope_parameters": {"rope_theta": 1e6}},
            "rope_parameters must hold full_attention",
        ),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers must list one value for each"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"vocab_size": "32000"}, "vocab_size is '32000'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"hidden_size": 66}, "not a multiple of num_attention_heads"),
        ({"head_dim": 15}, "head_dim is 15"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "'yarn'"),
        ({"rope_scaling": {"rope_type": "linear"}}, "lacks factor"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks low_freq_factor"),
    ],
)
def test_what_it_cannot_compute_is_refused_by_name(change, said):
    with pytest.raises(UserError, match="^here: ") as caught:
        ModelConfig.from_hf(RAW | change, source="here")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("value", [[{"type": "linear", "factor": 2.0}], ["llama3"], "linear", 2.0])
def test_rope_settings_of_another_kind_are_named(key, value):
    with pytest.raises(UserError, match=f"{key} is .*must be an object"):
        ModelConfig.from_hf(RAW | {key: value})
