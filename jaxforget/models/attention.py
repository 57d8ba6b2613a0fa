"""Causal attention; of long blocks the scores never exist whole, but for some heads and queries at a time.

A layer's scores are fp32 [B, H, S, T]: for 16 blocks of 512 and 32 heads half a gigabyte, several times over in the
backward pass, and eight times that for blocks of 4096. Here loops make them for at most `SCORES` pairs of head and
query at a time, and the backward pass makes them again rather than keep them. Where a block has no more than `SCORES`
pairs there is no loop, and model.remat alone decides what is kept. It is plain XLA: every backend runs it.

Letters in shapes: B rows, S queries, T slots, K key/value heads, G query heads that share one, E head width.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Array = jax.Array
SCORES = 4096
FEW = 128  # queries of a part where there are few scores
KEPT_NAME = "attention"  # of its result (the kernel's: and log-sums), for a policy of what a backward pass finds ready
HEADS = 8  # of keys in a turn of the outer loop; as many tensor-parallel devices still have one each

_product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)


def soft_capped(x: Array, soft_cap: float | None) -> Array:
    """Return x [...] bounded smoothly to within +-soft_cap (Gemma 2); None leaves it as it is."""
    return x if soft_cap is None else soft_cap * jnp.tanh(x / soft_cap)


def attend(query: Array, key: Array, value: Array, positions: Array) -> Array:
    """Causal grouped-query attention. query [B,S,H,E], key and value [B,T,K,E], positions int [B,S] -> [B,S,H,E].

    The query comes scaled by E^-1/2: scores are its products with keys as they are.

    Slot t of the keys holds position t: `t <= position` is both causality and the end of what a cache holds,
    and right padding needs no mask. Where there are as many slots as queries, query i stands at i. The
    softmax is fp32: bf16 loses small probabilities among many slots.
    """
    rows, length, heads, width = query.shape
    groups = key.shape[2]
    query = query.reshape(rows, length, groups, heads // groups, width)
    if heads * length <= SCORES:
        return _attend_few(query, key, value, positions).reshape(rows, length, heads, width)
    if groups % HEADS or groups == HEADS:
        y = _attend(query, key, value, positions)
    else:
        blocks = (_head_blocks(x) for x in (query, key, value))
        y = jax.lax.map(lambda block: _attend(*block, positions), tuple(blocks))  # [K / HEADS, B, S, HEADS, G, E]
        y = jnp.moveaxis(y, 0, 3)
    return checkpoint_name(y.reshape(rows, length, heads, width), KEPT_NAME)


def _parts(length: int, slots: int) -> list[tuple[slice, slice]]:
    """Queries, and the slots up to the last of them: queries of a block see no slot behind their own."""
    if slots != length:
        return [(slice(0, length), slice(0, slots))]
    ends = [*range(FEW, length, FEW), length]
    return [(slice(start, end), slice(0, end)) for start, end in zip([0, *ends], ends, strict=False)]


def _heads_first(x: Array) -> Array:
    """[B, S, ..., E] -> [B, ..., S, E]."""
    return jnp.moveaxis(x, 1, -2)


def _rows(x: Array, part: slice) -> Array:
    """Of [B, K, G, S, E] a part of the queries, those of a key head together: [B, K, R, E]."""
    x = x[..., part, :]
    return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _few_forward(query: Array, key: Array, value: Array, positions: Array):
    q, k, v = _heads_first(query), _heads_first(key), _heads_first(value)
    groups = q.shape[2]
    ys, exponents, inverses = [], [], []
    for part, seen in _parts(query.shape[1], key.shape[1]):
        scores = _product("bkre,bkte->bkrt", _rows(q, part), k[:, :, seen])
        visible = jnp.arange(seen.stop) <= jnp.tile(positions[:, part], groups)[..., None]  # [B, R, T]
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


@jax.custom_vjp
def _attend_few(query: Array, key: Array, value: Array, positions: Array) -> Array:
    """Where all scores may exist at once: no loop, and without remat a backward pass finds them ready.

    On two cores a layer of 8 blocks of 512 takes 52 ms forward, 78 by way of a softmax; its gradient 170 ms, 245 when
    it is left to JAX.
    """
    return _few_forward(query, key, value, positions)[0]


def _few_backward(kept: tuple, gradient: Array):
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
        d_scores = (exponent * (d_probability - _rows(inner, part))).astype(q.dtype)
        d_query.append(jnp.einsum("bkrt,bkte->bkre", d_scores, k[:, :, seen]).reshape(*q.shape[:3], -1, q.shape[-1]))
        d_key += jnp.pad(_product("bkrt,bkre->bkte", d_scores, _rows(q, part)), behind)
        d_value += jnp.pad(_product("bkrt,bkre->bkte", exponent.astype(v.dtype), d_part), behind)
    back = (jnp.concatenate(d_query, axis=-2), d_key.astype(k.dtype), d_value.astype(v.dtype))
    return *(jnp.moveaxis(x, -2, 1) for x in back), None


_attend_few.defvjp(_few_forward, _few_backward)


def _head_blocks(x: Array) -> Array:
    """[B, S, K, ...] -> [K / HEADS, B, S, HEADS, ...]; block i is heads i, i + K / HEADS, ..., on every device some."""
    return jnp.moveaxis(x.reshape(*x.shape[:2], HEADS, -1, *x.shape[3:]), 3, 0)


def _probabilities(query: Array, key: Array, positions: Array) -> Array:
    """fp32 [B,K,G,S,T]."""
    scores = jnp.einsum("bskge,btke->bkgst", query, key, preferred_element_type=jnp.float32)
    visible = jnp.arange(key.shape[1])[None, None, :] <= positions[:, :, None]  # [B, S, T]
    return jax.nn.softmax(jnp.where(visible[:, None, None], scores, jnp.finfo(jnp.float32).min), axis=-1)


def _chunks(x: Array, heads: int) -> Array:
    """[B, S, ...] -> [chunks, B, queries, ...], the last one filled up with zeros; heads * queries within `SCORES`."""
    count = -(-x.shape[1] // max(1, SCORES // heads))
    size = -(-x.shape[1] // count)
    x = jnp.pad(x, ((0, 0), (0, count * size - x.shape[1])) + ((0, 0),) * (x.ndim - 2))
    return jnp.swapaxes(x.reshape(x.shape[0], count, size, *x.shape[2:]), 0, 1)


def _whole(chunks: Array, length: int) -> Array:
    """What `_chunks` cut, put together again."""
    x = jnp.swapaxes(chunks, 0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


@jax.custom_vjp
def _attend(query: Array, key: Array, value: Array, positions: Array) -> Array:
    def one(chunk: tuple[Array, Array]) -> Array:
        probabilities = _probabilities(chunk[0], key, chunk[1]).astype(value.dtype)
        return jnp.einsum("bkgst,btke->bskge", probabilities, value)

    heads = query.shape[2] * query.shape[3]
    return _whole(jax.lax.map(one, (_chunks(query, heads), _chunks(positions, heads))), query.shape[1])


def _attend_forward(query: Array, key: Array, value: Array, positions: Array):
    return _attend(query, key, value, positions), (query, key, value, positions)


def _attend_backward(kept: tuple[Array, Array, Array, Array], gradient: Array):
    query, key, value, positions = kept

    def one(sums: tuple[Array, Array], chunk: tuple[Array, Array, Array]):
        query, positions, gradient = chunk
        d_key, d_value = sums
        probabilities = _probabilities(query, key, positions)
        d_value += jnp.einsum(
            "bkgst,bskge->btke", probabilities.astype(value.dtype), gradient, preferred_element_type=jnp.float32
        )
        d_probabilities = jnp.einsum("bskge,btke->bkgst", gradient, value, preferred_element_type=jnp.float32)
        d_scores = probabilities * (d_probabilities - jnp.sum(probabilities * d_probabilities, axis=-1, keepdims=True))
        d_scores = d_scores.astype(query.dtype)
        d_key += jnp.einsum("bkgst,bskge->btke", d_scores, query, preferred_element_type=jnp.float32)
        return (d_key, d_value), jnp.einsum("bkgst,btke->bskge", d_scores, key)

    # Many chunks add to a key's gradient: in fp32, else each addition would round to bf16.
    zeros = (jnp.zeros(key.shape, jnp.float32), jnp.zeros(value.shape, jnp.float32))
    heads = query.shape[2] * query.shape[3]
    chunks = tuple(_chunks(x, heads) for x in (query, positions, gradient))
    (d_key, d_value), d_query = jax.lax.scan(one, zeros, chunks)
    return _whole(d_query, query.shape[1]), d_key.astype(key.dtype), d_value.astype(value.dtype), None


_attend.defvjp(_attend_forward, _attend_backward)
