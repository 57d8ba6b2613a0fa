"""Parameters and the Hugging Face tensors that hold them: the one table that loading and saving share."""

import dataclasses
import math

from jaxforget.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One parameter and its place in a Hugging Face checkpoint.

    Attributes:
      name: path in the parameter tree, "layers/q/kernel".
      template: Hugging Face name; `{}` stands for the layer of a stacked parameter.
      shape: of the parameter, with the leading [L] when stacked.
      stacked: True if there is one Hugging Face tensor a layer.
      transposed: True if Hugging Face stores [out, in] and the parameter is [in, out].
      start: first row of the stored tensor that belongs to this parameter.
      fused_rows: rows of the stored tensor, where it holds other parameters too; None: it holds this one alone.
    """

    name: str
    template: str
    shape: tuple[int, ...]
    stacked: bool = False
    transposed: bool = False
    start: int = 0
    fused_rows: int | None = None

    @property
    def tensors(self) -> tuple[str, ...]:
        """Hugging Face names, one a layer or just one."""
        return (
            tuple(self.template.format(layer) for layer in range(self.shape[0])) if self.stacked else (self.template,)
        )

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of this parameter's part of each of those tensors, in stored axes."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of each of those tensors."""
        part = self.part_shape
        return part if self.fused_rows is None else (self.fused_rows, *part[1:])

    @property
    def rows(self) -> slice:
        """Rows of each of those tensors that hold this parameter."""
        return slice(self.start, self.start + self.part_shape[0])


def leaves(config: ModelConfig) -> tuple[Leaf, ...]:
    """Return every parameter of a model of shape `config`."""
    width, depth, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    queries, keys = (heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads))
    names = config.row.names
    kernels = {  # input and output width
        "q": (width, queries),
        "k": (width, keys),
        "v": (width, keys),
        "o": (queries, width),
        "gate": (width, inner),
        "up": (width, inner),
        "down": (inner, width),
    }
    found = [Leaf("embed", "model.embed_tokens.weight", (config.vocab_size, width))]
    for name, (inputs, outputs) in kernels.items():
        prefix = "model.layers.{}." + names[name]
        joined = {other: kernels[other][1] for other in kernels if names[other] == names[name]}
        others = list(joined)[: list(joined).index(name)]
        fused = {"start": sum(joined[other] for other in others), "fused_rows": sum(joined.values())}
        fused = fused if len(joined) > 1 else {}
        found.append(Leaf(f"layers/{name}/kernel", f"{prefix}.weight", (depth, inputs, outputs), True, True, **fused))
        if config.has_bias(name):
            found.append(Leaf(f"layers/{name}/bias", f"{prefix}.bias", (depth, outputs), True, **fused))
    head_norms = (config.head_dim, config.head_dim) if config.row.norm_each_head else (queries, keys)
    norms = {
        "attention_norm": width,
        "q_norm": head_norms[0],
        "k_norm": head_norms[1],
        "attention_out_norm": width,
        "mlp_norm": width,
        "mlp_out_norm": width,
    }
    for name, size in norms.items():
        if name in names:
            found.append(
                Leaf(f"layers/{name}/scale", "model.layers.{}." + f"{names[name]}.weight", (depth, size), True)
            )
    found.append(Leaf("norm/scale", "model.norm.weight", (width,)))
    if not config.tie_word_embeddings:
        found.append(Leaf("lm_head", "lm_head.weight", (width, config.vocab_size), transposed=True))
    return tuple(found)


def parameter_count(config: ModelConfig) -> int:
    """Return the number of parameters of a model of shape `config`; a tied head counts once."""
    return sum(math.prod(leaf.shape) for leaf in leaves(config))
