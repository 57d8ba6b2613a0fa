"""Conversion of a Llama from GGUF, as `read_gguf.py` unpacks it, to a Hugging Face folder."""

from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jaxforget.errors import UserError
from jaxforget.files import read_json
from jaxforget.models.config import ModelConfig
from jaxforget.models.export import config_to_hf, export_order, write_model
from jaxforget.models.load import float_dtype

# GGUF's name of each tensor of a Llama.
NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
CONTROL = 3  # GGUF's type of tokens that no text gives


def convert(unpacked: Path, folder: Path, card: str) -> None:
    """Write the Hugging Face folder of an unpacked GGUF file.

    Args:
      unpacked: the folder that `read_gguf.py` wrote.
      folder: the new model's.
      card: its model card, Markdown.

    Raises:
      UserError: the file holds another architecture or another kind of tokenizer.
    """
    fields = read_json(unpacked / "fields.json")
    for name, known in (
        ("general.architecture", "llama"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
    ):
        if fields.get(name) != known:
            raise UserError(f"{unpacked}: {name} is {fields.get(name)!r}; this conversion knows {known!r} only")
    config = shape(fields, tied=not (unpacked / "output.weight.npy").is_file())
    tensors = (_tensor(unpacked, config, name, layer) for name, _, layer in export_order(config))
    write_model(
        folder,
        tensors,
        config,
        config_to_hf(config),
        tokenizer(fields),
        float_dtype("float32"),
        5_000_000_000,
        card,
    )


def shape(fields: dict[str, Any], *, tied: bool) -> ModelConfig:
    """Return the model's shape; `tied`: the embedding is also the head."""
    heads, width = fields["llama.attention.head_count"], fields["llama.embedding_length"]
    return ModelConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=width,
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=heads,
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        head_dim=width // heads,
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 10),  # a float32 in the file
        rope_theta=float(fields["llama.rope.freq_base"]),
        max_position_embeddings=fields["llama.context_length"],
        tie_word_embeddings=tied,
        bos_token_id=fields["tokenizer.ggml.bos_token_id"],
        eos_token_id=fields["tokenizer.ggml.eos_token_id"],
    )


def _tensor(unpacked: Path, config: ModelConfig, name: str, layer: int | None) -> np.ndarray:
    """Return the tensor with a Hugging Face name, fp32."""
    ending = name.removeprefix(f"model.layers.{layer}.")
    stored = NAMES[ending] if layer is None else f"blk.{layer}.{NAMES[ending]}"
    values = np.load(unpacked / f"{stored}.npy")
    if ending.endswith(("q_proj.weight", "k_proj.weight")):
        return halves(values, config.head_dim)
    return values


def halves(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Return rows of queries or keys in Hugging Face's order.

    GGUF stores the two coordinates of each rotation side by side; Hugging Face stores the first coordinates of a head
    and then the second ones.

    Args:
      rows: [heads * head_dim, hidden].
      head_dim: rows of a head.
    """
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[-1])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Return the tokenizer: byte-level BPE, digits apart."""
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        chat_template=fields.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
    )
