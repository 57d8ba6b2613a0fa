"""How likely endings are after beginnings that several of them share: each beginning is read once.

A beginning's keys and values are kept and copied to its endings, which then take a short pass of their own; an ending
of one token takes none. Batches are cut by length, so that a few programs serve any number of documents.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.models.generate import cache_sharding
from jaxforget.models.llama import Cache, Llama, empty_cache
from jaxforget.sharding import put_batch
from jaxforget.train.types import Params

SHORT, LONG = 8, 32  # beginnings up to 64 tokens are padded to a multiple of the one, longer ones of the other
TOKENS = 8192  # of a batch, beginnings and endings each
CACHE_BYTES = 2**30  # keys and values of a batch's endings, over all devices
LOGITS_BYTES = 2**28  # of one token of every ending, over all devices
Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Width:
    """The size of a program: tokens of a beginning, endings of each, tokens of an ending."""

    before: int
    endings: int
    after: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """numbers: of each ending, [D, E], -1 for padding. The rest as `_score` takes it."""

    numbers: np.ndarray
    arrays: dict[str, np.ndarray]
    width: Width


class EndingScorer:
    """Scores endings under any parameters of one architecture on one mesh."""

    def __init__(self, module: Llama, mesh: Mesh):
        self._module, self._mesh = module, mesh

    def __call__(self, params: Params, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Of every (beginning, ending), token ids of neither of which is empty: the ending's summed log-likelihood, and
        whether each of its tokens is the likeliest (of equals, the lowest id), in the order given."""
        out: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        waiting: tuple[Batch, jax.Array, jax.Array] | None = None
        for batch in self._batches(pairs):
            logp, likeliest = _score(
                self._module, self._mesh, batch.width.endings, params, put_batch(batch.arrays, self._mesh)
            )
            # The last batch is fetched while this one is computed.
            if waiting is not None:
                _note(out, pairs, *waiting)
            waiting = batch, logp, likeliest
        if waiting is not None:
            _note(out, pairs, *waiting)
        return out

    def _batches(self, pairs: Sequence[tuple[Ids, Ids]]) -> Iterator[Batch]:
        shards = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (before, _) in enumerate(pairs):
            groups.setdefault(tuple(before), []).append(number)
        by_width: dict[Width, list[tuple[tuple[int, ...], list[int]]]] = {}
        for before, numbers in groups.items():
            # Endings beyond what a batch holds are scored as another document's.
            for first in range(0, len(numbers), 64):
                some = numbers[first : first + 64]
                longest = max(len(pairs[number][1]) for number in some)
                width = Width(_padded(len(before)), _power(len(some)), _power(longest))
                by_width.setdefault(width, []).append((before, some))
        for width, documents in by_width.items():
            rows = self._rows(width)
            rows = -(-min(rows, _power(len(documents))) // shards) * shards
            for first in range(0, len(documents), rows):
                yield _batch(documents[first : first + rows], pairs, width, rows, self._mesh)

    def _rows(self, width: Width) -> int:
        """Documents of that width in a batch, a power of two."""
        config, size = self._module.config, jnp.dtype(self._module.dtype).itemsize
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
        slots = width.endings * (width.before + width.after)
        most = min(
            TOKENS // max(width.before, width.endings * width.after),
            CACHE_BYTES // (token * slots),
            LOGITS_BYTES // (4 * config.vocab_size * width.endings),
        )
        return 1 << max(0, most.bit_length() - 1)


def _padded(length: int) -> int:
    step = SHORT if length <= 64 else LONG
    return -(-length // step) * step


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _batch(
    documents: Sequence[tuple[Ids, list[int]]], pairs: Sequence[tuple[Ids, Ids]], width: Width, rows: int, mesh: Mesh
) -> Batch:
    before = np.zeros((rows, width.before), np.int32)
    lengths = np.ones(rows, np.int32)
    after = np.full((rows, width.endings, width.after), -1, np.int32)
    numbers = np.full((rows, width.endings), -1)
    for row, (ids, some) in enumerate(documents):
        before[row, : len(ids)] = ids
        lengths[row] = len(ids)
        numbers[row, : len(some)] = some
        for i, number in enumerate(some):
            after[row, i, : len(pairs[number][1])] = pairs[number][1]
    share = rows // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    arrays = {"before": before, "lengths": lengths, "after": after}
    return Batch(numbers, {name: value[mine] for name, value in arrays.items()}, width)


@functools.partial(jax.jit, static_argnames=("module", "mesh", "endings"))
def _score(
    module: Llama, mesh: Mesh, endings: int, params: Params, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """log P and whether it is the likeliest, [D, E, C], of the tokens `after` int [D, E, C] (-1: padding) that follow
    `before` [D, P] of `lengths` [D]."""
    before, lengths, after = batch["before"], batch["lengths"], batch["after"]
    rows, width = before.shape
    count = after.shape[-1]
    variables = {"params": params}
    shardings = cache_sharding(module, mesh)

    def pin(cache: Cache) -> Cache:
        return jax.lax.with_sharding_constraint(cache, shardings)

    positions = jnp.broadcast_to(jnp.arange(width), before.shape)
    slots = width if count == 1 else width + count
    cache = pin(empty_cache(module.config, rows, slots, module.dtype))
    states, cache = module.apply(variables, before, positions, cache, method="decode")
    last = jnp.take_along_axis(states, (lengths - 1)[:, None, None], axis=1)  # [D, 1, D']
    states = jnp.repeat(last, endings, axis=0)  # [D E, 1, D']
    labels = after.reshape(rows * endings, count)
    if count > 1:
        # An ending's tokens overwrite the padding behind the beginning before attention can see those slots.
        cache = pin(jax.tree.map(lambda x: jnp.repeat(x, endings, axis=1), cache))
        places = jnp.repeat(lengths, endings)[:, None] + jnp.arange(count - 1)
        given = jnp.maximum(labels[:, :-1], 0)
        states = jnp.concatenate(
            [states, module.apply(variables, given, places, cache, method="decode")[0]], axis=1
        )  # [D E, C, D']
    head = module.apply(variables, method="head")

    def answer(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        state, label = inputs  # [D E, D'], [D E]: one token of every ending, so that few logits exist at a time
        logits = jnp.einsum("rd,dv->rv", state, head, preferred_element_type=jnp.float32)
        picked = jnp.take_along_axis(logits, jnp.maximum(label, 0)[:, None], axis=-1)[:, 0]
        logp = jnp.where(label >= 0, picked - jax.nn.logsumexp(logits, axis=-1), 0.0)
        return logp, (jnp.argmax(logits, axis=-1) == label) | (label < 0)

    logp, likeliest = (x.swapaxes(0, 1) for x in jax.lax.map(answer, (states.swapaxes(0, 1), labels.swapaxes(0, 1))))
    whole = NamedSharding(mesh, PartitionSpec())
    shape = (rows, endings, count)
    return jax.lax.with_sharding_constraint((logp.reshape(shape), likeliest.reshape(shape)), whole)


def _note(
    out: list[tuple[float, bool]],
    pairs: Sequence[tuple[Ids, Ids]],
    batch: Batch,
    logp: jax.Array,
    likeliest: jax.Array,
) -> None:
    """Writes a batch's answers where they belong."""
    sums = np.asarray(logp).sum(axis=-1, dtype=np.float64)
    greedy = np.asarray(likeliest).all(axis=-1)
    for row, i in zip(*np.nonzero(batch.numbers >= 0), strict=True):
        out[batch.numbers[row, i]] = float(sums[row, i]), bool(greedy[row, i])
