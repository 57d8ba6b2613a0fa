"""Completions: a prefill, then one compiled loop over a key/value cache, for prompts of many lengths.

Prompts are right-padded. A row's new tokens overwrite its own padding in the cache, slot by slot, before
attention can see those slots, so the result of a row does not depend on the other rows.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.errors import UserError
from jaxforget.models.tokenizer import check_ids
from jaxforget.models.transformer import Cache, Transformer, empty_cache
from jaxforget.output_projection import logits_of
from jaxforget.sharding import ROW_AXES

Array = jax.Array
# (token ids of each prompt, maximum new tokens) -> the new token ids of each prompt; greedy, without the end token
Complete = Callable[[Sequence[Sequence[int]], int], list[list[int]]]
# temperature and top_p float32 [], top_k int32 [], end tokens int32 [E]
Settings = tuple[Array, Array, Array, Array]
# tokens made so far [], last hidden states [B, D], rows that go on [B], new tokens [B, room], cache
Carry = tuple[Array, Array, Array, Array, Cache]
COLDEST, HOTTEST = 1e-6, 1e6  # beyond these, logits divided by the temperature leave the range of fp32
NOTHING = -1  # in the output: after a row's end


def generate(
    model: Transformer,
    params: dict[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    eos_ids: Sequence[int] = (),
    pad_id: int = 0,
    mesh: Mesh | None = None,
    batch_rows: int = 32,
) -> list[list[int]]:
    """Return the new token ids of each prompt, without the end token.

    Widths, lengths and row counts are rounded up before compiling, so that many different calls share a few programs.
    A sampled row depends on `seed` and its place in `prompts`, not on how rows are batched.

    Args:
      model: the module; its dtype is that of the products and the cache (logits are fp32).
      params: its parameters, on one device or on `mesh`.
      prompts: token ids, none empty.
      max_new_tokens: largest number of new tokens for each prompt.
      temperature: 0 takes the most likely token (the first of equals); above 0 tokens are sampled.
      top_p: sample among the most likely tokens that together hold this probability; 1 is all.
      top_k: sample among this many most likely tokens; 0 is all.
      seed: of the sampling.
      eos_ids: a row ends where one of these is generated.
      pad_id: fills the short prompts; any valid id.
      mesh: splits rows over its `data` and `fsdp` axes; with None the parameters decide the placement.
      batch_rows: prompts run together; the cache grows with it.

    Raises:
      UserError: an empty prompt, a token beyond the vocabulary, or a setting out of range.
    """
    check_prompts(prompts, model.config.vocab_size, max_new_tokens, temperature, top_p, top_k)
    mode, settings = sampling_of(model, temperature, top_p, top_k, eos_ids)
    results: list[list[int]] = [[] for _ in prompts]
    # Neighbours in length share a batch: the least padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), batch_rows):
        chosen = order[first : first + batch_rows]
        tokens, lengths = pad_prompts([prompts[index] for index in chosen], pad_id, mesh)
        places = np.zeros(len(tokens), np.int32)
        places[: len(chosen)] = chosen
        made = _complete(
            model,
            params,
            tokens,
            lengths,
            places,
            np.arange(len(tokens)) < len(chosen),
            np.int32(max_new_tokens),
            jax.random.key(seed),
            settings,
            room=bucket(max_new_tokens),
            mode=mode,
            mesh=mesh,
        )
        for index, row in zip(chosen, np.asarray(made), strict=False):  # padding rows at the end are dropped
            results[index] = [int(token) for token in row[row != NOTHING]]
    return results


def sampling_of(
    model: Transformer, temperature: float, top_p: float, top_k: int, eos_ids: Sequence[int]
) -> tuple[str, Settings]:
    """Return the mode and the settings of `advance`."""
    vocabulary = model.config.vocab_size
    mode = "greedy" if temperature == 0 else "filtered" if top_p < 1 or 0 < top_k < vocabulary else "sample"
    found = sorted(set(eos_ids))
    ends = np.full(bucket(len(found) or 1), NOTHING, np.int32)
    ends[: len(found)] = found
    kept = np.int32(min(top_k, vocabulary) if top_k else vocabulary)
    return mode, (np.float32(temperature or 1), np.float32(top_p), kept, ends)


def trace_generate(model: Transformer, params: Any, *, rows: int, prompt: int, new: int, mesh: Mesh) -> Any:
    """Return a greedy `generate` of that size, traced and not yet lowered: `params` may be `ShapeDtypeStruct`s.

    Args:
      rows: prompts run together; rounded up as `generate` does, like the following two.
      prompt: tokens of the longest prompt.
      new: largest number of new tokens.
    """
    tokens, lengths = pad_prompts([[0] * prompt] * rows, 0, mesh)
    whole = NamedSharding(mesh, PartitionSpec())

    def abstract(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    key = jax.eval_shape(lambda: jax.random.key(0))
    scalars = (abstract((), jnp.float32), abstract((), jnp.float32), abstract((), jnp.int32))
    settings = (*scalars, abstract((bucket(1),), jnp.int32))
    return _complete.trace(
        model,
        params,
        abstract(tokens.shape, jnp.int32),
        abstract(lengths.shape, jnp.int32),
        abstract(lengths.shape, jnp.int32),
        abstract(lengths.shape, jnp.bool_),
        abstract((), jnp.int32),
        abstract(key.shape, key.dtype),
        settings,
        room=bucket(new),
        mode="greedy",
        mesh=mesh,
    )


@functools.partial(jax.jit, static_argnames=("model", "room", "mode", "mesh"))
def _complete(
    model: Transformer,
    params: dict[str, Any],
    tokens: Array,
    lengths: Array,
    places: Array,
    real: Array,
    limit: Array,
    key: Array,
    settings: Settings,
    *,
    room: int,
    mode: str,
    mesh: Mesh | None,
) -> Array:
    """Return new tokens [B, room] after right-padded tokens [B, P] of lengths [B]; `NOTHING` after a row's end."""
    carry = prefill(model, params, tokens, lengths, real, room=room, mesh=mesh)
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(places)
    made = advance(model, params, carry, lengths, limit, keys, settings, mode=mode, mesh=mesh)[3]
    # Every process reads the result, so every device gets all of it.
    return made if mesh is None else jax.lax.with_sharding_constraint(made, NamedSharding(mesh, PartitionSpec()))


def prefill(
    model: Transformer,
    params: dict[str, Any],
    tokens: Array,
    lengths: Array,
    real: Array,
    *,
    room: int,
    mesh: Mesh | None,
) -> Carry:
    """Read the prompts and return the state of generation after them, for `advance`.

    Args:
      model: the module; the cache has its dtype.
      params: its parameters.
      tokens: int32 [B, P], right-padded prompts.
      lengths: int32 [B], tokens of each prompt, each at least 1.
      real: bool [B]; a row that is not real is padding and generates nothing.
      room: cache slots reserved for new tokens.
      mesh: the mesh that shards the rows, or None.

    Returns:
      A `Carry` with no new tokens yet: its output is int32 [B, room], its cache has P + room slots.
    """
    rows, width = tokens.shape
    if mesh is not None:
        tokens = jax.lax.with_sharding_constraint(tokens, NamedSharding(mesh, PartitionSpec(ROW_AXES)))
    cache = _pin(model, mesh, empty_cache(model.config, rows, width + room, model.dtype))
    positions = jnp.broadcast_to(jnp.arange(width), tokens.shape)
    states, cache = model.apply({"params": params}, tokens, positions, cache, method="decode")
    last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]  # [B, D]
    made = jnp.full((rows, room), NOTHING, jnp.int32)
    return jnp.int32(0), last, real, made, _pin(model, mesh, cache)


def advance(
    model: Transformer,
    params: dict[str, Any],
    carry: Carry,
    lengths: Array,
    limit: Array,
    keys: Array,
    settings: Settings,
    *,
    mode: str,
    mesh: Mesh | None,
) -> Carry:
    """Generate until each row has `limit` new tokens, those of earlier calls included, or every row has ended.

    Args:
      model: the module.
      params: its parameters.
      carry: from `prefill` or an earlier call.
      lengths: of the prompts, int32 [B].
      keys: of the sampling, one a row.
      settings: temperature, top_p, top_k and the end tokens.
      mode: "greedy", "sample" or "filtered" (top_p or top_k).
      mesh: lays out the cache; None for one device.

    Returns:
      The carry, from which another call goes on.
    """
    *_, ends = settings
    variables = {"params": params}
    head = model.apply(variables, method="head")

    def step(carry: Carry) -> Carry:
        index, state, running, made, cache = carry
        logits = logits_of(state, head, model.config.logit_soft_cap)
        token = _choose(logits, mode, settings, keys, index)
        running = running & ~jnp.isin(token, ends)
        made = made.at[:, index].set(jnp.where(running, token, NOTHING))
        state, cache = model.apply(variables, token[:, None], (lengths + index)[:, None], cache, method="decode")
        return index + 1, state[:, 0], running, made, _pin(model, mesh, cache)

    return jax.lax.while_loop(lambda carry: (carry[0] < limit) & jnp.any(carry[2]), step, carry)


def _pin(model: Transformer, mesh: Mesh | None, cache: Cache) -> Cache:
    return cache if mesh is None else jax.lax.with_sharding_constraint(cache, cache_sharding(model, mesh))


def _choose(logits: Array, mode: str, settings: Settings, keys: Array, index: Array) -> Array:
    """Return the next token [B] from fp32 logits [B, V]."""
    temperature, top_p, top_k, _ = settings
    if mode == "greedy":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if mode == "filtered":
        ranked = jnp.sort(logits, axis=-1, descending=True)
        mass = jax.nn.softmax(ranked, axis=-1)
        inside = jnp.cumsum(mass, axis=-1) - mass < top_p  # the one that crosses top_p belongs to it
        weakest = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True)
        weakest = jnp.maximum(weakest, jnp.take(ranked, top_k - 1, axis=-1)[..., None])
        logits = jnp.where(logits >= weakest, logits, -jnp.inf)
    drawn = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, index), row))(keys, logits)
    return drawn.astype(jnp.int32)


def cache_sharding(model: Transformer, mesh: Mesh) -> NamedSharding:
    """Return the sharding of keys and values [L, B, T, K, E]: rows as a batch's, heads over `tensor` if possible."""
    heads = "tensor" if model.config.num_key_value_heads % mesh.shape["tensor"] == 0 else None
    return NamedSharding(mesh, PartitionSpec(None, ROW_AXES, None, heads))


def bucket(size: int) -> int:
    """Return `size` rounded up to a power of two from 32 to 128, then to a multiple of 128."""
    if size > 128:
        return -(-size // 128) * 128
    return max(32, 1 << (size - 1).bit_length())


def pad_prompts(prompts: list[Sequence[int]], pad_id: int, mesh: Mesh | None) -> tuple[np.ndarray, np.ndarray]:
    """Return right-padded tokens int32 [B, P] and lengths [B]; rows beyond the prompts are one token of padding."""
    rows = 1 << (len(prompts) - 1).bit_length()
    if mesh is not None:
        split = int(np.prod([mesh.shape[axis] for axis in ROW_AXES]))
        rows = -(-rows // split) * split
    tokens = np.full((rows, bucket(max(map(len, prompts)))), pad_id, np.int32)
    lengths = np.ones(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        lengths[row] = len(prompt)
    return tokens, lengths


def check_prompts(
    prompts: Sequence[Sequence[int]], vocabulary: int, new: int, temperature: float, top_p: float, top_k: int
) -> None:
    """Raise `UserError` for prompts or settings that cannot be generated from."""
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {number} has no tokens; give it at least the begin token")
        if min(prompt) < 0:
            raise UserError(f"prompt {number} holds token {min(prompt)}; token ids are 0 or more")
    check_ids(prompts, vocabulary)
    check_sampling(new, temperature, top_p, top_k)


def check_sampling(
    new_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int = 0,
    *,
    names: Sequence[str] = ("max_new_tokens=", "temperature=", "top_p=", "top_k="),
) -> None:
    """Raise `UserError` for settings that `generate` cannot sample by; `names` are the user's names of the four."""
    if new_tokens < 1:
        raise UserError(f"{names[0]}{new_tokens}: ask for at least 1")
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise UserError(f"{names[1]}{temperature}: must be 0 (the argmax), or from {COLDEST:g} to {HOTTEST:g}")
    if not 0 < top_p <= 1:
        raise UserError(f"{names[2]}{top_p}: must be above 0 and at most 1")
    if top_k < 0:
        raise UserError(f"{names[3]}{top_k}: must be 0 (all tokens) or more")
