"""Causal attention in plain XLA, for every backend; the scores of a long block never exist all at once.

A layer's scores are fp32 [B, H, S, T]: for 16 blocks of 512 and 32 heads half a gigabyte, several times over in the
backward pass, and eight times that for blocks of 4096. Here loops compute them for at most `SCORES` pairs of head and
query at a time, and the backward pass computes them again rather than keep them. A block with at most `SCORES` pairs
needs no loop, and model.remat alone decides what is kept.

Letters in shapes: B rows, S queries, T slots, K key/value heads, G query heads that share one, E head width.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from jaxforget.output_projection import soft_capped

Array = jax.Array
SCORES = 4096
FEW = 128  # queries of a part where there are few scores
KEPT_NAME = "attention"  # names the result (of the kernel: and log-sums), for policies of what a backward pass keeps
HEADS = 8  # key heads in a turn of the outer loop; as many tensor-parallel devices still have one each
UNLIMITED = jnp.iinfo(jnp.int32).max // 2  # the window of a layer without one, among layers that have one

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


@dataclasses.dataclass(frozen=True)
class Scope:
    """The positions that queries see, beside causality, and the bound of their scores. Static.

    Attributes:
      windows: the distinct windows of a model's layers: a query at position p sees p - window + 1 to p; None: 0 to p.
      soft_cap: scores x become c * tanh(x / c); None: they stay.
    """

    windows: tuple[int | None, ...] = (None,)
    soft_cap: float | None = None

    def within(self, slots: int) -> "Scope":
        """Return the scope among so many slots: windows that hold them all are none."""
        windows = tuple(None if window is None or window >= slots else window for window in self.windows)
        return dataclasses.replace(self, windows=windows[:1] if len(set(windows)) == 1 else windows)

    def window(self, layer: Array | None) -> Array | int | None:
        """Return the window of a layer, given the index int32 [] of its window (not read where there is only one)."""
        if len(self.windows) == 1:
            return self.windows[0]
        return jnp.asarray([UNLIMITED if window is None else window for window in self.windows], jnp.int32)[layer]


EVERYTHING = Scope()


def attend(
    query: Array, key: Array, value: Array, positions: Array, scope: Scope = EVERYTHING, layer: Array | None = None
) -> Array:
    """Return causal grouped-query attention, [B, S, H, E].

    Slot t of the keys holds position t. So `t <= position` is both causality and the end of what a cache holds, and
    right padding needs no mask. The softmax is fp32: bf16 loses small probabilities among many slots.

    Args:
      query: [B, S, H, E], scaled: scores are its products with the keys. With as many slots as queries, query i has
        position i.
      key: [B, T, K, E].
      value: [B, T, K, E].
      positions: of the queries, int32 [B, S].
      scope: windows and soft cap.
      layer: int32 [], index of this layer's window in `scope.windows`; None where that has only one.
    """
    scope = scope.within(key.shape[1])
    window = scope.window(layer)
    rows, length, heads, width = query.shape
    groups = key.shape[2]
    query = query.reshape(rows, length, groups, heads // groups, width)
    if heads * length <= SCORES:
        return _attend_few(query, key, value, positions, window, scope.soft_cap).reshape(rows, length, heads, width)
    if groups % HEADS or groups == HEADS:
        y = _attend(query, key, value, positions, window, scope.soft_cap)
    else:
        blocks = (_head_blocks(x) for x in (query, key, value))
        # [K / HEADS, B, S, HEADS, G, E]
        y = jax.lax.map(lambda block: _attend(*block, positions, window, scope.soft_cap), tuple(blocks))
        y = jnp.moveaxis(y, 0, 3)
    return checkpoint_name(y.reshape(rows, length, heads, width), KEPT_NAME)


def _visible(slots: int, positions: Array, window: Array | int | None) -> Array:
    """Return whether each of the first `slots` is seen from `positions`, bool [..., T] of int32 [...]."""
    slot = jnp.arange(slots)
    causal = slot <= positions[..., None]
    return causal if window is None else causal & (slot > positions[..., None] - window)


def _cap_slope(scores: Array, soft_cap: float) -> Array:
    """Return the derivative of `soft_capped` at `scores`."""
    return 1 - jnp.square(jnp.tanh(scores / soft_cap))


def _parts(length: int, slots: int) -> list[tuple[slice, slice]]:
    """Return parts of the queries, and for each the slots up to its last: no query of a block sees a later one."""
    if slots != length:
        return [(slice(0, length), slice(0, slots))]
    ends = [*range(FEW, length, FEW), length]
    return [(slice(start, end), slice(0, end)) for start, end in zip([0, *ends], ends, strict=False)]


def _heads_first(x: Array) -> Array:
    """[B, S, ..., E] -> [B, ..., S, E]."""
    return jnp.moveaxis(x, 1, -2)


def _rows(x: Array, part: slice) -> Array:
    """Return a part of the queries [B, K, G, S, E], those of a key head together: [B, K, R, E]."""
    x = x[..., part, :]
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _few_forward(
    query: Array, key: Array, value: Array, positions: Array, window: Array | None, soft_cap: float | None
):
    q, k, v = _heads_first(query), _heads_first(key), _heads_first(value)
    groups = q.shape[2]
    ys, exponents, inverses = [], [], []
    for part, seen in _parts(query.shape[1], key.shape[1]):
        scores = soft_capped(_product("bkre,bkte->bkrt", _rows(q, part), k[:, :, seen]), soft_cap)
        visible = _visible(seen.stop, jnp.tile(positions[:, part], groups), window)  # [B, R, T]
        scores = jnp.where(visible[:, None], scores, jnp.finfo(jnp.float32).min)
        # Divided by their sum after the product with values: E numbers a row, not T.
        exponent = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        inverse = 1 / jnp.sum(exponent, axis=-1, keepdims=True)
        y = _product("bkrt,bkte->bkre", exponent.astype(v.dtype), v[:, :, seen]) * inverse
        ys.append(y.astype(v.dtype).reshape(*q.shape[:3], -1, v.shape[-1]))
        inverses.append(inverse.reshape(*q.shape[:3], -1, 1))
        exponents.append(exponent)
    # Named here, as the backward pass reads it too.
    y = checkpoint_name(jnp.moveaxis(jnp.concatenate(ys, axis=-2), -2, 1), KEPT_NAME)
    return y, (q, k, v, y, exponents, jnp.concatenate(inverses, axis=-2))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend_few(
    query: Array, key: Array, value: Array, positions: Array, window: Array | None, soft_cap: float | None
) -> Array:
    """Attend with all scores at once: no loop, and without remat the backward pass does not compute them again.

    On two cores a layer of 8 blocks of 512 takes 52 ms forward, 78 by way of a softmax; its gradient 170 ms, 245 when
    it is left to JAX.
    """
    return _few_forward(query, key, value, positions, window, soft_cap)[0]


def _few_backward(soft_cap: float | None, kept: tuple, gradient: Array):
    q, k, v, y, exponents, inverse = kept
    # The sum over a query's slots of probability times its gradient is that of y times its own.
    # Heads on one axis: beside an axis of one group a CPU sums forty times slower (25 ms a layer).
    merged = (*y.shape[:2], -1, y.shape[-1])
    inner = jnp.sum((gradient.astype(jnp.float32) * y.astype(jnp.float32)).reshape(merged), axis=-1)
    inner = _heads_first(inner.reshape(*y.shape[:-1], 1)) * inverse
    d = (_heads_first(gradient) * inverse).astype(v.dtype)
    d_query, d_key, d_value = [], 0.0, 0.0
    for (part, seen), exponent in zip(_parts(q.shape[-2], k.shape[-2]), exponents, strict=True):
        d_part, behind = _rows(d, part), ((0, 0), (0, 0), (0, k.shape[-2] - seen.stop), (0, 0))
        d_probability = _product("bkre,bkte->bkrt", d_part, v[:, :, seen])
        d_scores = exponent * (d_probability - _rows(inner, part))
        if soft_cap is not None:
            d_scores *= _cap_slope(_product("bkre,bkte->bkrt", _rows(q, part), k[:, :, seen]), soft_cap)
        d_scores = d_scores.astype(q.dtype)
        d_query.append(jnp.einsum("bkrt,bkte->bkre", d_scores, k[:, :, seen]).reshape(*q.shape[:3], -1, q.shape[-1]))
        d_key += jnp.pad(_product("bkrt,bkre->bkte", d_scores, _rows(q, part)), behind)
        d_value += jnp.pad(_product("bkrt,bkre->bkte", exponent.astype(v.dtype), d_part), behind)
    back = (jnp.concatenate(d_query, axis=-2), d_key.astype(k.dtype), d_value.astype(v.dtype))
    return *(jnp.moveaxis(x, -2, 1) for x in back), None, None


_attend_few.defvjp(_few_forward, _few_backward)


def _head_blocks(x: Array) -> Array:
    """[B, S, K, ...] -> [K / HEADS, B, S, HEADS, ...]; block i has heads i, i + K / HEADS, ..., some of each device."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], HEADS, -1, *x.shape[3:]), 3, 0)


def _probabilities(
    query: Array, key: Array, positions: Array, window: Array | None, soft_cap: float | None
) -> tuple[Array, Array | None]:
    """Return probabilities, fp32 [B, K, G, S, T], and the soft cap's slopes where there is one."""
    scores = jnp.einsum("bskge,btke->bkgst", query, key, preferred_element_type=jnp.float32)
    visible = _visible(key.shape[1], positions, window)[:, None, None]  # [B, 1, 1, S, T]
    masked = jnp.where(visible, soft_capped(scores, soft_cap), jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(masked, axis=-1), None if soft_cap is None else _cap_slope(scores, soft_cap)


def _chunks(x: Array, heads: int) -> Array:
    """[B, S, ...] -> [chunks, B, queries, ...], the last one padded with zeros; heads * queries within `SCORES`."""
    count = -(-x.shape[1] // max(1, SCORES // heads))
    size = -(-x.shape[1] // count)
    x = jnp.pad(x, ((0, 0), (0, count * size - x.shape[1])) + ((0, 0),) * (x.ndim - 2))
    return jnp.swapaxes(x.reshape(x.shape[0], count, size, *x.shape[2:]), 0, 1)


def _whole(chunks: Array, length: int) -> Array:
    """Undo `_chunks`."""
    x = jnp.swapaxes(chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def _attend_in_chunks(
    query: Array, key: Array, value: Array, positions: Array, window: Array | None, soft_cap: float | None
) -> Array:
    def one(chunk: tuple[Array, Array]) -> Array:
        probabilities = _probabilities(chunk[0], key, chunk[1], window, soft_cap)[0].astype(value.dtype)
        return jnp.einsum("bkgst,btke->bskge", probabilities, value)

    heads = query.shape[2] * query.shape[3]
    return _whole(jax.lax.map(one, (_chunks(query, heads), _chunks(positions, heads))), query.shape[1])


# Not `_attend` itself in the forward rule: a gradient through it has no derivative in forward mode.
_attend = functools.partial(jax.custom_vjp, nondiff_argnums=(5,))(_attend_in_chunks)


def _attend_forward(query, key, value, positions, window, soft_cap):
    return _attend_in_chunks(query, key, value, positions, window, soft_cap), (query, key, value, positions, window)


def _attend_backward(soft_cap: float | None, kept: tuple, gradient: Array):
    query, key, value, positions, window = kept

    def one(sums: tuple[Array, Array], chunk: tuple[Array, Array, Array]):
        query, positions, gradient = chunk
        d_key, d_value = sums
        probabilities, slopes = _probabilities(query, key, positions, window, soft_cap)
        d_value += jnp.einsum(
            "bkgst,bskge->btke", probabilities.astype(value.dtype), gradient, preferred_element_type=jnp.float32
        )
        d_probabilities = jnp.einsum("bskge,btke->bkgst", gradient, value, preferred_element_type=jnp.float32)
        d_scores = probabilities * (d_probabilities - jnp.sum(probabilities * d_probabilities, axis=-1, keepdims=True))
        d_scores = (d_scores if slopes is None else d_scores * slopes).astype(query.dtype)
        d_key += jnp.einsum("bkgst,bskge->btke", d_scores, query, preferred_element_type=jnp.float32)
        return (d_key, d_value), jnp.einsum("bkgst,btke->bskge", d_scores, key)

    # Many chunks add to a key's gradient: in fp32, else each addition would round to bf16.
    zeros = (jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32))
    heads = query.shape[2] * query.shape[3]
    chunks = tuple(_chunks(x, heads) for x in (query, positions, gradient))
    (d_key, d_value), d_query = jax.lax.scan(one, zeros, chunks)
    return _whole(d_query, query.shape[1]), d_key.astype(key.dtype), d_value.astype(value.dtype), None, None


_attend.defvjp(_attend_forward, _attend_backward)
