"""The forward pass of every family in Flax Linen: one layer function, scanned over layers, compiled once.

`Transformer(config).apply({"params": params}, tokens, method="hidden")` is the pure function that training gets. What a
family computes differently is data (`families`); what a layer computes differently from its neighbours (its window, its
rotary base) is a per-layer input of the scan.

Letters in shapes: B rows, S positions, T cache slots, D hidden, H heads, K key/value heads, G = H/K, E head width, F
feed-forward width, V vocabulary, L layers.
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from jaxforget.models.attention import KEPT_NAME, Scope, attend
from jaxforget.models.config import ModelConfig
from jaxforget.models.embedding import look_up
from jaxforget.models.rope import Rope, layer_frequencies
from jaxforget.models.weights import Dense
from jaxforget.output_projection import logits_of

Array = jax.Array
SMALL = 2**26  # bytes of [B, S, F], over all devices, above which saving memory is worth a loop
ACTIVATIONS = {"silu": nn.silu, "gelu_pytorch_tanh": functools.partial(nn.gelu, approximate=True)}
ATTENTION_RESULTS = ("q", "k", "v", KEPT_NAME, "o")
# What each remat keeps for a layer's backward pass, beside the layer's input; the rest is computed again. The result of
# `down` is never kept: only the next layer's input is computed from it.
KEPT = {"full": (), "mlp": ATTENTION_RESULTS, "dots": (*ATTENTION_RESULTS, "gate", "up")}
REMAT_POLICIES = {remat: jax.checkpoint_policies.save_only_these_names(*names) for remat, names in KEPT.items()}
REMATS = (*KEPT, "none")


@struct.dataclass
class Cache:
    """Keys and values of every layer so far. `keys`, `values`: [L, B, T, K, E] in the compute dtype."""

    keys: Array
    values: Array


def empty_cache(config: ModelConfig, rows: int, slots: int, dtype: jnp.dtype) -> Cache:
    """Return a cache of `slots` positions for `rows` sequences, all zeros; slots past a row's end are never read."""
    shape = (config.num_hidden_layers, rows, slots, config.num_key_value_heads, config.head_dim)
    return Cache(keys=jnp.zeros(shape, dtype), values=jnp.zeros(shape, dtype))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def gated(gate: Array, up: Array, activation: str) -> Array:
    """Return activation(gate) * up, [B, S, F]; the backward pass needs as few arrays of that size as possible."""
    return ACTIVATIONS[activation](gate) * up


def _gated_forward(gate: Array, up: Array, activation: str):
    # Not `gated` itself: then the gradient has no derivative in forward mode, which a second derivative takes.
    return ACTIVATIONS[activation](gate) * up, (gate, up)


def _gated_backward(activation: str, kept: tuple[Array, Array], gradient: Array):
    # Gradients overwrite their own inputs, a part at a time: computed at once, the two would need two more arrays.
    act = ACTIVATIONS[activation]
    parts = math.gcd(gradient.shape[1], 4) if gradient.nbytes > SMALL else 1
    size = gradient.shape[1] // parts

    def part(i: Array, arrays: tuple[Array, Array]) -> tuple[Array, Array]:
        gate, up, d = (jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1) for x in (*arrays, gradient))
        made = jax.vjp(act, gate)[1](d * up)[0], act(gate) * d
        made = jax.lax.optimization_barrier(made)  # all is read before anything is written
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(x, y, i * size, axis=1) for x, y in zip(arrays, made, strict=True)
        )

    return jax.lax.fori_loop(0, parts, part, kept)


gated.defvjp(_gated_forward, _gated_backward)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis, computed in fp32: the mean of squares overflows or rounds in bf16.

    [..., D] of any float dtype -> [..., D] of `dtype`.

    Attributes:
      offset: added to the scale, which then multiplies in fp32; None: the scale multiplies after rounding to `dtype`.
    """

    epsilon: float
    offset: float | None
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = nn.initializers.constant(1 - (self.offset or 0))  # such that the norm alone remains
        scale = self.param("scale", init, (x.shape[-1],), self.param_dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        if self.offset is not None:
            return (x * (self.offset + scale.astype(jnp.float32))).astype(self.dtype)
        return scale.astype(self.dtype) * x.astype(self.dtype)


@struct.dataclass
class LayerInputs:
    """Inputs of the scan that differ by layer: int32 [] in a layer, [L] outside; None where all layers agree.

    rope: index of the layer's rotation. window: index of its window in `Scope.windows`.
    """

    rope: Array | None
    window: Array | None


def layer_inputs(config: ModelConfig) -> tuple[list[np.ndarray], Scope, LayerInputs]:
    """Return the distinct rotary frequencies, the distinct windows, and for every layer the indices of its own."""
    frequencies, ropes = layer_frequencies(config)
    every = config.windows or (None,)
    windows = tuple(dict.fromkeys(every))
    inputs = LayerInputs(
        rope=np.asarray(ropes, np.int32) if len(frequencies) > 1 else None,
        window=np.asarray([windows.index(window) for window in every], np.int32) if len(windows) > 1 else None,
    )
    return frequencies, Scope(windows, config.attention_soft_cap), inputs


class Layer(nn.Module):
    """One decoder layer: attention and a gated feed-forward part, each between norms and added to the stream.

    A family has any of the norms: before the attention or the feed-forward part, after it, and on queries and keys.

    Takes [B, S, D] of `dtype`, the distinct rotations stacked on a first axis where there are several, positions int32
    [B, S], this layer's inputs and its cache. Returns the same shape and dtype, and the cache with the new keys in it.
    """

    config: ModelConfig
    attention_scope: Scope
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    constrain: Callable[[Array], Array]
    attend: Callable[..., Array]

    def _dense(self, features: int, name: str) -> Callable[[Array], Array]:
        dense = Dense(features, self.config.has_bias(name), self.dtype, self.param_dtype, name=name)
        return lambda x: checkpoint_name(dense(x), name)

    def _norm(self, x: Array, name: str) -> Array:
        """Return x normed, or x itself where the family has no such norm."""
        row = self.config.row
        if name not in row.names:
            return x
        return RMSNorm(self.config.rms_norm_eps, row.norm_offset, self.dtype, self.param_dtype, name=name)(x)

    def _heads(self, x: Array, name: str, count: int) -> Array:
        """Return queries, keys or values, [B, S, count, E]."""
        y = self._dense(count * self.config.head_dim, name)(x)
        each = self.config.row.norm_each_head
        y = y if each else self._norm(y, f"{name}_norm")
        y = y.reshape(*y.shape[:2], count, self.config.head_dim)
        return self._norm(y, f"{name}_norm") if each else y

    @nn.compact
    def __call__(
        self, x: Array, rope: Rope, positions: Array, inputs: LayerInputs, cache: Cache | None
    ) -> tuple[Array, Cache | None]:
        config = self.config
        rope = rope if inputs.rope is None else jax.tree.map(lambda table: table[inputs.rope], rope)

        # Attention [B, S, D].
        y = self._norm(x, "attention_norm")
        query = self._heads(y, "q", config.num_attention_heads)
        key = self._heads(y, "k", config.num_key_value_heads)
        value = self._heads(y, "v", config.num_key_value_heads)
        query, key = rope(query, key)
        if cache is not None:
            rows = jnp.arange(x.shape[0])[:, None]
            cache = Cache(
                keys=cache.keys.at[rows, positions].set(key.astype(cache.keys.dtype)),
                values=cache.values.at[rows, positions].set(value.astype(cache.values.dtype)),
            )
            key, value = cache.keys, cache.values
        # Only plain attention serves a cache: its slots may outnumber the queries, which stand anywhere among them.
        attention = self.attend if cache is None else attend
        y = attention(query, key, value, positions, self.attention_scope, inputs.window).reshape(*y.shape[:2], -1)
        x = self.constrain(x + self._norm(self._dense(config.hidden_size, "o")(y), "attention_out_norm"))

        # Feed-forward part [B, S, D] -> [B, S, F] -> [B, S, D].
        y = self._norm(x, "mlp_norm")
        gate = self._dense(config.intermediate_size, "gate")(y)
        up = self._dense(config.intermediate_size, "up")(y)
        y = self._dense(config.hidden_size, "down")(gated(gate, up, config.hidden_act))
        x = self.constrain(x + self._norm(y, "mlp_out_norm"))
        self.sow("intermediates", "output", x)
        return x, cache


def _unchanged(x: Array) -> Array:
    return x


class Transformer(nn.Module):
    """The decoder. Parameters: embed [V, D], layers/* stacked [L, ...], norm [D], lm_head [D, V] unless tied.

    Attributes:
      config: the shape.
      dtype: of activations and matrix products (norms, softmax and logits are fp32 inside).
      param_dtype: of the parameters that `init` makes; `apply` takes any float dtype and casts per layer.
      remat: what a layer's backward pass recomputes: "full", all of it; "mlp", its feed-forward part; "dots", all but
        its matrix products and attention's result; "none", nothing.
      unroll: layers in one turn of the loop; more than one compiles longer and, on a CPU, runs a shallow model faster.
      constrain: applied to every [B, S, D] activation; a sharding constraint on a mesh, nothing on one device.
      look_up: (table [V, D], tokens [B, S]) -> [B, S, D]; on a mesh `embedding.ShardedLookUp`.
      attend: `attention.attend`, `splash.SplashAttention` on TPUs, or `cudnn.CudnnAttention` on NVIDIA GPUs.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    unroll: int = 1
    constrain: Callable[[Array], Array] = _unchanged
    look_up: Callable[[Array, Array], Array] = look_up
    attend: Callable[..., Array] = attend

    def setup(self) -> None:
        config = self.config
        self.frequencies, self.attention_scope, self.inputs = layer_inputs(config)
        init = nn.initializers.normal(0.02)
        self.embed = self.param("embed", init, (config.vocab_size, config.hidden_size), self.param_dtype)
        layer = Layer
        if self.remat != "none":
            # Inside a scan the loop already keeps XLA from merging the recomputation away.
            layer = nn.remat(layer, policy=REMAT_POLICIES[self.remat], prevent_cse=False)
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True},
            in_axes=(nn.broadcast, nn.broadcast, 0, 0),
            length=config.num_hidden_layers,
            unroll=self.unroll,
            # The check traces every layer a second time. Initialising keeps it: without it, the same seed would draw
            # other weights.
            check_constancy_invariants=self.is_initializing(),
        )(config, self.attention_scope, self.dtype, self.param_dtype, self.constrain, self.attend)
        self.norm = RMSNorm(config.rms_norm_eps, config.row.norm_offset, self.dtype, self.param_dtype)
        if not config.tie_word_embeddings:
            self.lm_head = self.param("lm_head", init, (config.hidden_size, config.vocab_size), self.param_dtype)

    def __call__(self, tokens: Array) -> Array:
        """Return logits, fp32 [B, S, V], of int tokens [B, S]. Holds the vocabulary axis: small inputs only."""
        return logits_of(self.hidden(tokens), self.head(), self.config.logit_soft_cap)

    def hidden(self, tokens: Array) -> Array:
        """Return final normed states, compute dtype [B, S, D], of int tokens [B, S], right-padded.

        With `mutable=["intermediates"]` every layer's output is kept too, stacked [L, B, S, D].
        """
        return self.norm(self._run(tokens, None, None)[0])

    def states(self, tokens: Array) -> Array:
        """Return states before the final norm, compute dtype [B, S, D], of int tokens [B, S], right-padded."""
        return self._run(tokens, None, None)[0]

    def decode(self, tokens: Array, positions: Array, cache: Cache) -> tuple[Array, Cache]:
        """Return states [B, S, D] of `tokens` at `positions` [B, S], and the cache with their keys and values."""
        x, cache = self._run(tokens, positions, cache)
        return self.norm(x), cache

    def head(self) -> Array:
        """Return the output projection [D, V] in the compute dtype; `logit_soft_cap` is not part of it."""
        return (self.embed.T if self.config.tie_word_embeddings else self.lm_head).astype(self.dtype)

    def _run(self, tokens: Array, positions: Array | None, cache: Cache | None) -> tuple[Array, Cache | None]:
        config = self.config
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        places, scale = positions[:, :, None, None].astype(jnp.float32), (config.query_scale or config.head_dim) ** -0.5
        ropes = [Rope.from_angles(places * frequencies, scale) for frequencies in self.frequencies]
        rope = ropes[0] if len(ropes) == 1 else jax.tree.map(lambda *tables: jnp.stack(tables), *ropes)
        # Gather before the cast: the cast of a whole table would be a second copy of it.
        x = self.look_up(self.embed, tokens).astype(self.dtype)
        if config.row.scaled_embedding:
            x = x * jnp.asarray(config.hidden_size**0.5, self.dtype)
        return self.layers(self.constrain(x), rope, positions, self.inputs, cache)
