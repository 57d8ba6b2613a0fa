"""Llama's forward pass in Flax Linen: layers scanned, one compile of one layer.

`Transformer(config).apply({"params": params}, tokens, method="hidden")` is the pure function that training gets.
Letters in shapes: B rows, S positions, T cache slots, D hidden, H heads, K key/value heads, G = H/K, E head
width, F feed-forward width, V vocabulary, L layers.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from jaxforget.models.attention import KEPT_NAME, attend, soft_capped
from jaxforget.models.config import ModelConfig
from jaxforget.models.embedding import look_up
from jaxforget.models.weights import Dense

Array = jax.Array
SMALL = 2**26  # bytes of [B, S, F], over all devices, from which on saving memory is worth a loop
ATTENTION_RESULTS = ("q", "k", "v", KEPT_NAME, "o")
# A remat says what a layer's backward pass makes again; here stands what it finds ready beside the layer's input.
# Down's result is nowhere: nothing but the next layer's input is made of it.
KEPT = {"full": (), "mlp": ATTENTION_RESULTS, "dots": (*ATTENTION_RESULTS, "gate", "up")}
REMAT_POLICIES = {remat: jax.checkpoint_policies.save_only_these_names(*names) for remat, names in KEPT.items()}
REMATS = (*KEPT, "none")


@struct.dataclass
class Cache:
    """Keys and values of every layer so far. `keys`, `values`: [L, B, T, K, E] in the compute dtype."""

    keys: Array
    values: Array


def empty_cache(config: ModelConfig, rows: int, slots: int, dtype: jnp.dtype) -> Cache:
    """A cache of `slots` positions for `rows` sequences, all zeros; slots past a row's end are unread."""
    shape = (config.num_hidden_layers, rows, slots, config.num_key_value_heads, config.head_dim)
    return Cache(keys=jnp.zeros(shape, dtype), values=jnp.zeros(shape, dtype))


def rope_frequencies(config: ModelConfig) -> np.ndarray:
    """Rotary angular frequencies, fp32 [E/2], their long wavelengths stretched where configured.

    On the host, the power in fp64 and everything else in fp32 in transformers' order: fp32 power functions of devices
    and of some processors stray by several units in the last place, and far positions multiply that. So every host
    has the same numbers, transformers' to a unit or two (to the bit where its own power function is exact).
    """
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / np.float32(config.head_dim)
    frequencies = np.float32(1) / (config.rope_theta ** exponents.astype(np.float64)).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    # llama3: keep high frequencies, divide low ones, blend in between by how many turns fit the old context.
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    blend = np.clip(blend, 0.0, 1.0)
    return frequencies * (blend + (1 - blend) / scaling.factor)


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotates x [B, S, N, E] by positions: cos, sin fp32 [B, S, 1, E/2]; halves, not interleaved pairs."""
    first, second = (half.astype(jnp.float32) for half in jnp.split(x, 2, axis=-1))
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


@struct.dataclass
class Rope:
    """Cosines and sines to rotate by, fp32 [B, S, 1, E/2] each.

    The softmax's scale, E^-1/2, is in the query's: in fp32, and rounded with the rotated query. Of a query in bf16 it
    would round every number once more.
    """

    query: tuple[Array, Array]
    key: tuple[Array, Array]

    @classmethod
    def of(cls, angles: Array, width: int) -> "Rope":
        """Of the angles [B, S, 1, E/2] of heads of `width` E."""
        cos, sin = jnp.cos(angles), jnp.sin(angles)
        return cls(query=(cos * width**-0.5, sin * width**-0.5), key=(cos, sin))


@jax.custom_vjp
def gated(gate: Array, up: Array) -> Array:
    """silu(gate) * up, [B, S, F], backward in as few arrays of that size as there can be."""
    return nn.silu(gate) * up


def _gated_forward(gate: Array, up: Array):
    return gated(gate, up), (gate, up)


def _gated_backward(kept: tuple[Array, Array], gradient: Array):
    # Gradients take the place of what they are made of, a part at a time: done at once, the two need two more arrays.
    parts = math.gcd(gradient.shape[1], 4) if gradient.nbytes > SMALL else 1
    size = gradient.shape[1] // parts

    def part(i: Array, arrays: tuple[Array, Array]) -> tuple[Array, Array]:
        gate, up, d = (jax.lax.dynamic_slice_in_dim(x, i * size, size, axis=1) for x in (*arrays, gradient))
        made = jax.vjp(nn.silu, gate)[1](d * up)[0], nn.silu(gate) * d
        made = jax.lax.optimization_barrier(made)  # all is read before anything is written
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(x, y, i * size, axis=1) for x, y in zip(arrays, made, strict=True)
        )

    return jax.lax.fori_loop(0, parts, part, kept)


gated.defvjp(_gated_forward, _gated_backward)


class RMSNorm(nn.Module):
    """Root-mean-square norm over D, computed in fp32 as the mean of squares overflows or rounds in bf16.

    [..., D] of any float dtype -> [..., D] of `dtype`.
    """

    epsilon: float
    dtype: jnp.dtype
    param_dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.param_dtype)
        x = x.astype(jnp.float32)
        x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + self.epsilon)
        return scale.astype(self.dtype) * x.astype(self.dtype)


class Layer(nn.Module):
    """One decoder layer: attention and a gated feed-forward, each behind a norm and added to the stream.

    [B, S, D] of `dtype` at `positions`, int32 [B, S] -> the same shape and dtype, and the cache with their keys in it.
    """

    config: ModelConfig
    dtype: jnp.dtype
    param_dtype: jnp.dtype
    constrain: Callable[[Array], Array]
    attend: Callable[[Array, Array, Array, Array], Array]

    def _dense(self, features: int, bias: bool, name: str) -> Callable[[Array], Array]:
        dense = Dense(features, bias, self.dtype, self.param_dtype, name=name)
        return lambda x: checkpoint_name(dense(x), name)

    @nn.compact
    def __call__(self, x: Array, rope: Rope, positions: Array, cache: Cache | None) -> tuple[Array, Cache | None]:
        config = self.config
        norm = {"epsilon": config.rms_norm_eps, "dtype": self.dtype, "param_dtype": self.param_dtype}

        # Attention [B, S, D].
        y = RMSNorm(**norm, name="attention_norm")(x)
        heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        query, key, value = (
            self._dense(n * config.head_dim, config.attention_bias, name)(y).reshape(*y.shape[:2], n, config.head_dim)
            for n, name in zip(heads, ("q", "k", "v"), strict=True)
        )
        query, key = rotate(query, *rope.query), rotate(key, *rope.key)
        if cache is not None:
            rows = jnp.arange(x.shape[0])[:, None]
            cache = Cache(
                keys=cache.keys.at[rows, positions].set(key.astype(cache.keys.dtype)),
                values=cache.values.at[rows, positions].set(value.astype(cache.values.dtype)),
            )
            key, value = cache.keys, cache.values
        # Slots of a cache are not a block's: they may outnumber its queries, which stand anywhere among them.
        attention = self.attend if cache is None else attend
        y = attention(query, key, value, positions).reshape(*y.shape[:2], -1)
        x = self.constrain(x + self._dense(config.hidden_size, config.attention_bias, "o")(y))

        # Feed-forward [B, S, D] -> [B, S, F] -> [B, S, D].
        y = RMSNorm(**norm, name="mlp_norm")(x)
        gate = self._dense(config.intermediate_size, config.mlp_bias, "gate")(y)
        up = self._dense(config.intermediate_size, config.mlp_bias, "up")(y)
        x = self.constrain(x + self._dense(config.hidden_size, config.mlp_bias, "down")(gated(gate, up)))
        self.sow("intermediates", "output", x)
        return x, cache


def _unchanged(x: Array) -> Array:
    return x


class Transformer(nn.Module):
    """The decoder. Parameters: embed [V,D], layers/* stacked [L,...], norm [D], lm_head [D,V] unless tied.

    Attributes:
      config: the shape.
      dtype: of activations and matrix products (norms, softmax and logits are fp32 inside).
      param_dtype: of the parameters that `init` makes; `apply` takes any float dtype and casts per layer.
      remat: what a layer's backward pass recomputes: "full", all of it; "mlp", its feed-forward part; "dots", all but
        its matrix products and attention's result; "none", nothing.
      unroll: layers in one turn of the loop; more than one compiles longer and, on a CPU, runs a shallow model faster.
      constrain: put on every [B, S, D] activation; a sharding constraint on a mesh, nothing on one device.
      look_up: (table [V, D], tokens [B, S]) -> [B, S, D]; on a mesh `embedding.ShardedLookUp`.
      attend: `attention.attend`; on TPUs `splash.SplashAttention`.
    """

    config: ModelConfig
    dtype: jnp.dtype = jnp.float32
    param_dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    unroll: int = 1
    constrain: Callable[[Array], Array] = _unchanged
    look_up: Callable[[Array, Array], Array] = look_up
    attend: Callable[[Array, Array, Array, Array], Array] = attend

    def setup(self) -> None:
        config = self.config
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
            in_axes=(nn.broadcast, nn.broadcast, 0),
            length=config.num_hidden_layers,
            unroll=self.unroll,
        )(config, self.dtype, self.param_dtype, self.constrain, self.attend)
        self.norm = RMSNorm(config.rms_norm_eps, self.dtype, self.param_dtype)
        if not config.tie_word_embeddings:
            self.lm_head = self.param("lm_head", init, (config.hidden_size, config.vocab_size), self.param_dtype)

    def __call__(self, tokens: Array) -> Array:
        """Logits, fp32 [B, S, V], of int tokens [B, S]. Holds the vocabulary axis: small inputs only."""
        logits = jnp.einsum("bsd,dv->bsv", self.hidden(tokens), self.head(), preferred_element_type=jnp.float32)
        return soft_capped(logits, self.config.logit_soft_cap)

    def hidden(self, tokens: Array) -> Array:
        """Final normed states, compute dtype [B, S, D], of int tokens [B, S], right-padded.

        With `mutable=["intermediates"]` every layer's output is kept too, stacked [L, B, S, D].
        """
        return self._run(tokens, None, None)[0]

    def decode(self, tokens: Array, positions: Array, cache: Cache) -> tuple[Array, Cache]:
        """States [B, S, D] of `tokens` at `positions` [B, S], their keys and values now in `cache`."""
        return self._run(tokens, positions, cache)

    def head(self) -> Array:
        """The output projection [D, V] in the compute dtype."""
        return (self.embed.T if self.config.tie_word_embeddings else self.lm_head).astype(self.dtype)

    def _run(self, tokens: Array, positions: Array | None, cache: Cache | None) -> tuple[Array, Cache | None]:
        if positions is None:
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        angles = positions[:, :, None, None].astype(jnp.float32) * rope_frequencies(self.config)
        # Gather before the cast: the cast of a whole table would be a second copy of it.
        x = self.constrain(self.look_up(self.embed, tokens).astype(self.dtype))
        x, cache = self.layers(x, Rope.of(angles, self.config.head_dim), positions, cache)
        return self.norm(x), cache
