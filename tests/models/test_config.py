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
        ({"model_type": "mistral"}, "model_type is 'mistral'"),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
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
