"""Which Hugging Face tensor each parameter is: the one table that loading and saving share."""

import dataclasses
import math

from jaxforget.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter and where it lies in a Hugging Face checkpoint.

    Attributes:
      name: path in the parameter tree, "layers/q/kernel".
      template: Hugging Face name; `{}` stands for the layer of a stacked parameter.
      shape: of the parameter, with the leading [L] when stacked.
      stacked: one Hugging Face tensor a layer.
      transposed: Hugging Face stores [out, in], the parameter is [in, out].
    """

    name: str
    template: str
    shape: tuple[int, ...]
    stacked: bool = False
    transposed: bool = False

    @property
    def tensors(self) -> tuple[str, ...]:
        """Hugging Face names, one a layer or just one."""
        return (
            tuple(self.template.format(layer) for layer in range(self.shape[0])) if self.stacked else (self.template,)
        )

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of each of those tensors."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape


def leaves(config: ModelConfig) -> tuple[Leaf, ...]:
    """Every parameter of a Llama of shape `config`."""
    width, depth, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    products = (  # name, Hugging Face module, input and output width, bias
        ("q", "self_attn.q_proj", width, queries, config.attention_bias),
        ("k", "self_attn.k_proj", width, keys, config.attention_bias),
        ("v", "self_attn.v_proj", width, keys, config.attention_bias),
        ("o", "self_attn.o_proj", queries, width, config.attention_bias),
        ("gate", "mlp.gate_proj", width, inner, config.mlp_bias),
        ("up", "mlp.up_proj", width, inner, config.mlp_bias),
        ("down", "mlp.down_proj", inner, width, config.mlp_bias),
    )
    found = [Leaf("embed", "model.embed_tokens.weight", (config.vocab_size, width))]
    for name, module, inputs, outputs, bias in products:
        prefix = "model.layers.{}." + module
        found.append(Leaf(f"layers/{name}/kernel", f"{prefix}.weight", (depth, inputs, outputs), True, True))
        if bias:
            found.append(Leaf(f"layers/{name}/bias", f"{prefix}.bias", (depth, outputs), True))
    norms = (("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm"))
    for name, module in norms:
        found.append(Leaf(f"layers/{name}/scale", "model.layers.{}." + f"{module}.weight", (depth, width), True))
    found.append(Leaf("norm/scale", "model.norm.weight", (width,)))
    if not config.tie_word_embeddings:
        found.append(Leaf("lm_head", "lm_head.weight", (width, config.vocab_size), transposed=True))
    return tuple(found)


def parameter_count(config: ModelConfig) -> int:
    """Numbers in a Llama of shape `config`; a tied head counts once."""
    return sum(math.prod(leaf.shape) for leaf in leaves(config))
