"""Forms of a model's weights: float kernels, int8 kernels, int8 differences from base, low-rank adapters.

In the parameter tree a dense layer is a dict. Its entries say how the weight is computed:

    kernel  float [L, in, out], or `Int8`                     W
    delta   `Int8`: a difference from that kernel             W + delta
    lora    `LoRA`: a low-rank product added to either           W + scale * A B

A model's delta is the tree of the weights that it does not share with base; `apply_delta` adds it to base's tree, whose
arrays then exist once. `Dense` reads every form inside the layer loop, so that no second whole model is computed.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct

from jaxforget.cpu import product_over_rows
from jaxforget.models.config import ModelConfig
from jaxforget.models.layout import Leaf, leaves

Array = jax.Array
Params = Any
LEVELS = 127  # int8 without -128, so that a weight and its negative are held alike


@struct.dataclass
class Int8:
    """`values * scale`. values: int8 [..., in, out]; scale: fp32 [..., 1, out], one an output channel, above 0."""

    values: Array
    scale: Array


@struct.dataclass
class LoRA:
    """`scale * a b` (arXiv 2106.09685). a: [..., in, r]; b: [..., r, out], 0 at the start; scale: alpha / r."""

    a: Array
    b: Array
    scale: float = struct.field(pytree_node=False)


def quantise(x: Array, levels: int = LEVELS) -> Int8:
    """Round a float kernel [..., in, out] to whole multiples of one scale for each output channel.

    The rounding is symmetric about 0, and off by at most largest / (2 levels), where `largest` is the largest absolute
    value of the channel. A channel of zeros stays 0.

    Args:
      x: the kernel.
      levels: largest stored value, at most 127.
    """
    x = x.astype(jnp.float32)
    largest = jnp.max(jnp.abs(x), axis=-2, keepdims=True)
    scale = jnp.where(largest > 0, largest, 1.0) / levels
    return Int8(jnp.clip(jnp.round(x / scale), -levels, levels).astype(jnp.int8), scale)


def dequantise(kernel: Array | Int8) -> Array:
    """Return the kernel in fp32."""
    if isinstance(kernel, Int8):
        return kernel.values.astype(jnp.float32) * kernel.scale
    return kernel.astype(jnp.float32)


def difference(base: Array | Int8, kernel: Array) -> Int8:
    """Return the difference of `kernel` from base's kernel as it is held, so that it also corrects base's rounding."""
    return quantise(kernel.astype(jnp.float32) - dequantise(base))


def int8_kernels(params: Params) -> Params:
    """Return a tree of whole weights with every dense kernel in int8."""

    def change(layer: Params) -> Params:
        return {**layer, "kernel": quantise(layer["kernel"])} if "kernel" in layer else layer

    return {**params, "layers": {name: change(layer) for name, layer in params["layers"].items()}}


def differences(base: Params, params: Params) -> Params:
    """Return the delta of whole weights over `base`: int8 differences of dense kernels, the rest as it is."""

    def change(name: str, layer: Params) -> Params:
        if "kernel" not in layer:
            return layer
        rest = {key: value for key, value in layer.items() if key != "kernel"}
        return {**rest, "delta": difference(base["layers"][name]["kernel"], layer["kernel"])}

    return {**params, "layers": {name: change(name, layer) for name, layer in params["layers"].items()}}


def apply_delta(base: Params, delta: Params) -> Params:
    """Return the parameters of a model that consists of `delta` and, for everything else, of `base`'s arrays.

    Args:
      base: a parameter tree, or None: the delta is then the whole model.
      delta: replaces entries of `base`. A dense layer with a kernel replaces all of the base's layer.
    """
    if base is None or not isinstance(delta, dict) or "kernel" in delta:
        return delta
    return {**base, **{name: apply_delta(base.get(name), part) for name, part in delta.items()}}


def merged(params: Params, dtype: Any) -> Params:
    """Return a tree of any forms as float weights: dense layers are summed in fp32 and rounded to `dtype`."""

    def change(layer: Params) -> Params:
        kernel = layer.get("kernel")
        if kernel is None or not (isinstance(kernel, Int8) or {"delta", "lora"} & layer.keys()):
            return layer
        whole = dequantise(kernel)
        if "delta" in layer:
            whole = whole + dequantise(layer["delta"])
        if "lora" in layer:
            lora = layer["lora"]
            a, b = lora.a.astype(jnp.float32), lora.b.astype(jnp.float32)
            whole = whole + lora.scale * jnp.matmul(a, b, precision="highest")
        rest = {key: value for key, value in layer.items() if key not in ("kernel", "delta", "lora")}
        return {**rest, "kernel": whole.astype(dtype)}

    return {**params, "layers": {name: change(layer) for name, layer in params["layers"].items()}}


def dense_kernels(config: ModelConfig) -> dict[str, Leaf]:
    """Return name ("q") -> kernel [L, in, out] of every dense layer, the layers that adapters can be added to."""
    return {leaf.name.split("/")[1]: leaf for leaf in leaves(config) if leaf.name.endswith("/kernel")}


def adapter_shapes(config: ModelConfig, rank: int, alpha: float) -> Params:
    """Return a LoRA for every dense layer as fp32 `ShapeDtypeStruct`s: the parameters that train."""

    def beside(shape: tuple[int, ...]) -> LoRA:
        layers, inputs, outputs = shape
        a = jax.ShapeDtypeStruct((layers, inputs, rank), jnp.float32)
        return LoRA(a, jax.ShapeDtypeStruct((layers, rank, outputs), jnp.float32), alpha / rank)

    return {"layers": {name: {"lora": beside(leaf.shape)} for name, leaf in dense_kernels(config).items()}}


def init_adapter(shapes: Params, shardings: Params, seed: int) -> Params:
    """Return a fresh adapter: `a` uniform within 1 / sqrt(in), `b` 0, so that the model computes exactly as base."""

    def make() -> Params:
        layers = shapes["layers"]
        keys = jax.random.split(jax.random.key(seed), len(layers))
        made = {}
        for key, (name, layer) in zip(keys, layers.items(), strict=True):
            lora = layer["lora"]
            bound = lora.a.shape[1] ** -0.5
            a = jax.random.uniform(key, lora.a.shape, lora.a.dtype, -bound, bound)
            made[name] = {"lora": LoRA(a, jnp.zeros(lora.b.shape, lora.b.dtype), lora.scale)}
        return {"layers": made}

    return jax.jit(make, out_shardings=shardings)()


@jax.custom_vjp
def product(x: Array, kernel: Array) -> Array:
    """x [..., in] times kernel [in, out], whose two gradients are computed together.

    Otherwise the TPU compiler delays a kernel's gradient and keeps its inputs meanwhile: for a 7B model three
    feed-forward activations a layer, half a gigabyte during attention's backward pass.
    """
    return jnp.dot(x, kernel)


def _product_forward(x: Array, kernel: Array):
    return jnp.dot(x, kernel), (x, kernel)


def _product_backward(kept: tuple[Array, Array], gradient: Array):
    x, kernel = kept
    (d_x,) = jax.linear_transpose(lambda x: jnp.dot(x, kernel), x)(gradient)
    d_kernel = product_over_rows(x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1]))
    return jax.lax.optimization_barrier((d_x, d_kernel))


product.defvjp(_product_forward, _product_backward)


class Dense(nn.Module):
    """A dense layer, x [..., in] -> [..., out], that reads its weight in any of the module's forms.

    dtype: of the product. param_dtype: of the parameters that `init` makes, a float kernel and perhaps a bias.
    """

    features: int
    use_bias: bool
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.normal(0.02)
        kernel = self.param("kernel", init, (x.shape[-1], self.features), self.param_dtype)
        x = x.astype(self.dtype)
        adapted = self.has_variable("params", "lora")
        if self.has_variable("params", "delta"):
            kernel = dequantise(kernel) + dequantise(self.get_variable("params", "delta"))
        if isinstance(kernel, Int8):
            # Small whole numbers are exact in bfloat16; their scale is applied to the fp32 sum.
            y = jnp.dot(x, kernel.values.astype(self.dtype), preferred_element_type=jnp.float32)
            y = (y * kernel.scale[0]).astype(self.dtype)
        elif adapted:
            y = jnp.dot(x, kernel.astype(self.dtype))  # frozen: its gradient is never needed
        else:
            y = product(x, kernel.astype(self.dtype))
        if adapted:
            lora = self.get_variable("params", "lora")
            y = y + lora.scale * ((x @ lora.a.astype(self.dtype)) @ lora.b.astype(self.dtype))
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros_init(), (self.features,), self.param_dtype).astype(y.dtype)
        return y
