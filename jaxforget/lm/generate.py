"""Completions: a prefill, then one compiled loop over a key/value cache, for prompts of many lengths.

Prompts are right-padded. A row's new tokens overwrite its own padding in the cache, slot by slot, before
attention can see those slots: what a row gives does not depend on its neighbours.
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
from jaxforget.train.types import soft_capped

Array = jax.Array
# (token ids of each prompt, maximum new tokens) -> the new token ids of each prompt; greedy, without the end token
Complete = Callable[[Sequence[Sequence[int]], int], list[list[int]]]
ROW_AXES = ("data", "fsdp")  # mesh axes that split the rows, as they split a training batch
NOTHING = -1  # in the output: after a row's end


def generate(
    model: Transformer,
    params: dict[str, Any],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    eos_ids: Sequence[int] = (),
    pad_id: int = 0,
    mesh: Mesh | None = None,
    batch_rows: int = 32,
) -> list[list[int]]:
    """New token ids of each prompt, the end token left out.

    Widths, lengths and row counts are rounded up before compiling: many different calls share a few programs.
    A sampled row depends on `seed` and its place in `prompts`, not on how rows are batched.

    Args:
      model: the module; its dtype is that of the products and the cache (logits are fp32).
      params: its parameters, on one device or on `mesh`.
      prompts: token ids, none empty.
      max_new_tokens: at most so many for each.
      temperature: 0 takes the likeliest token (the first of equals), else samples at this temperature.
      top_p: sample among the likeliest tokens that together hold this probability; 1 is all.
      seed: of the sampling.
      eos_ids: a row ends where it gives one of these.
      pad_id: fills the short prompts; any valid id.
      mesh: splits rows over its `data` and `fsdp` axes; None leaves placing to the parameters.
      batch_rows: prompts run together; the cache grows with it.

    Raises:
      UserError: an empty prompt, a token beyond the vocabulary, or a setting out of range.
    """
    _check(prompts, model.config.vocab_size, max_new_tokens, temperature, top_p)
    mode = "greedy" if temperature == 0 else "sample" if top_p == 1 else "nucleus"
    found = sorted(set(eos_ids))
    ends = np.full(_bucket(len(found) or 1), NOTHING, np.int32)
    ends[: len(found)] = found
    results: list[list[int]] = [[] for _ in prompts]
    # Neighbours in length share a batch: the least padding.
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    for first in range(0, len(order), batch_rows):
        chosen = order[first : first + batch_rows]
        tokens, lengths = _pad([prompts[index] for index in chosen], pad_id, mesh)
        places = np.zeros(len(tokens), np.int32)
        places[: len(chosen)] = chosen
        settings = (np.float32(temperature or 1), np.float32(top_p), ends)
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
            room=_bucket(max_new_tokens),
            mode=mode,
            mesh=mesh,
        )
        for index, row in zip(chosen, np.asarray(made), strict=False):  # padding rows at the end are dropped
            results[index] = [int(token) for token in row[row != NOTHING]]
    return results


def trace_generate(model: Transformer, params: Any, *, rows: int, prompt: int, new: int, mesh: Mesh) -> Any:
    """A greedy `generate` of that size, traced and not yet lowered: `params` may be `ShapeDtypeStruct`s.

    Args:
      rows: prompts run together; rounded up as `generate` does, like the following two.
      prompt: tokens of the longest prompt.
      new: tokens made at most.
    """
    tokens, lengths = _pad([[0] * prompt] * rows, 0, mesh)
    whole = NamedSharding(mesh, PartitionSpec())

    def abstract(shape: tuple[int, ...], dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=whole)

    key = jax.eval_shape(lambda: jax.random.key(0))
    settings = (abstract((), jnp.float32), abstract((), jnp.float32), abstract((_bucket(1),), jnp.int32))
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
        room=_bucket(new),
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
    settings: tuple[Array, Array, Array],
    *,
    room: int,
    mode: str,
    mesh: Mesh | None,
) -> Array:
    """New tokens [B, room] after right-padded tokens [B, P] of lengths [B]; `NOTHING` after a row's end."""
    temperature, top_p, ends = settings
    rows, width = tokens.shape
    variables = {"params": params}
    head = model.apply(variables, method="head")
    keys = jax.vmap(lambda place: jax.random.fold_in(key, place))(places)

    def pin(cache: Cache) -> Cache:
        return cache if mesh is None else jax.lax.with_sharding_constraint(cache, cache_sharding(model, mesh))

    def step(carry: tuple) -> tuple:
        index, state, running, made, cache = carry
        logits = jnp.einsum("bd,dv->bv", state, head, preferred_element_type=jnp.float32)
        logits = soft_capped(logits, model.config.logit_soft_cap)
        token = _choose(logits, mode, temperature, top_p, keys, index)
        running = running & ~jnp.isin(token, ends)
        made = made.at[:, index].set(jnp.where(running, token, NOTHING))
        state, cache = model.apply(variables, token[:, None], (lengths + index)[:, None], cache, method="decode")
        return index + 1, state[:, 0], running, made, pin(cache)

    if mesh is not None:
        tokens = jax.lax.with_sharding_constraint(tokens, NamedSharding(mesh, PartitionSpec(ROW_AXES)))
    cache = pin(empty_cache(model.config, rows, width + room, model.dtype))
    positions = jnp.broadcast_to(jnp.arange(width), tokens.shape)
    states, cache = model.apply(variables, tokens, positions, cache, method="decode")
    last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)[:, 0]  # [B, D]
    made = jnp.full((rows, room), NOTHING, jnp.int32)
    carry = (jnp.int32(0), last, real, made, pin(cache))
    made = jax.lax.while_loop(lambda carry: (carry[0] < limit) & jnp.any(carry[2]), step, carry)[3]
    # Every process reads the result, so every device gets all of it.
    return made if mesh is None else jax.lax.with_sharding_constraint(made, NamedSharding(mesh, PartitionSpec()))


def _choose(logits: Array, mode: str, temperature: Array, top_p: Array, keys: Array, index: Array) -> Array:
    """The next token [B] from fp32 logits [B, V]."""
    if mode == "greedy":
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    logits = logits / temperature
    if mode == "nucleus":
        ranked = jnp.sort(logits, axis=-1, descending=True)
        mass = jax.nn.softmax(ranked, axis=-1)
        inside = jnp.cumsum(mass, axis=-1) - mass < top_p  # the one that crosses top_p belongs to it
        weakest = jnp.min(jnp.where(inside, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= weakest, logits, -jnp.inf)
    drawn = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, index), row))(keys, logits)
    return drawn.astype(jnp.int32)


def cache_sharding(model: Transformer, mesh: Mesh) -> NamedSharding:
    """Of keys and values [L, B, T, K, E]: rows as a batch's, heads over `tensor` where it divides them."""
    heads = "tensor" if model.config.num_key_value_heads % mesh.shape["tensor"] == 0 else None
    return NamedSharding(mesh, PartitionSpec(None, ROW_AXES, None, heads))


def _bucket(size: int) -> int:
    """`size` rounded up to a power of two from 32 to 128, then to a multiple of 128."""
    if size > 128:
        return -(-size // 128) * 128
    return max(32, 1 << (size - 1).bit_length())


def _pad(prompts: list[Sequence[int]], pad_id: int, mesh: Mesh | None) -> tuple[np.ndarray, np.ndarray]:
    """Right-padded tokens int32 [B, P] and lengths [B]; rows beyond the prompts are one token of padding."""
    rows = 1 << (len(prompts) - 1).bit_length()
    if mesh is not None:
        split = int(np.prod([mesh.shape[axis] for axis in ROW_AXES]))
        rows = -(-rows // split) * split
    tokens = np.full((rows, _bucket(max(map(len, prompts)))), pad_id, np.int32)
    lengths = np.ones(rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        lengths[row] = len(prompt)
    return tokens, lengths


def _check(prompts: Sequence[Sequence[int]], vocabulary: int, new: int, temperature: float, top_p: float) -> None:
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise UserError(f"prompt {number} has no tokens; give it at least the begin token")
        if min(prompt) < 0:
            raise UserError(f"prompt {number} holds token {min(prompt)}; token ids are 0 or more")
    check_ids(prompts, vocabulary)
    check_sampling(new, temperature, top_p)


def check_sampling(
    new_tokens: int,
    temperature: float,
    top_p: float,
    *,
    names: Sequence[str] = ("max_new_tokens=", "temperature=", "top_p="),
) -> None:
    """Raises `UserError` for what `generate` cannot sample by; `names` is how whoever set the three wrote them."""
    if new_tokens < 1:
        raise UserError(f"{names[0]}{new_tokens}: ask for at least 1")
    if temperature < 0:
        raise UserError(f"{names[1]}{temperature}: must be 0 (likeliest token) or more")
    if not 0 < top_p <= 1:
        raise UserError(f"{names[2]}{top_p}: must be above 0 and at most 1")
