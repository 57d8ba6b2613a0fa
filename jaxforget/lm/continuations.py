"""How likely endings are after beginnings that several of them share: each beginning is read once.

A beginning's keys and values are kept and copied to its endings, which then take a short pass of their own; an ending
of one token takes none. All of a beginning but its last token is read for its keys and values alone, so where layers
are unrolled the compiler drops the rest of the last layer. Documents are sorted by length and cut into batches of few
sizes, so that a few programs serve any number of documents.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.lm.generate import cache_sharding
from jaxforget.models.tokenizer import check_ids
from jaxforget.models.transformer import Cache, Transformer, empty_cache
from jaxforget.sharding import put_batch, row_shards
from jaxforget.train.types import Params, soft_capped

SHORT, LONG = 8, 32  # beginnings up to 64 tokens are padded to a multiple of the one, longer ones of the other
# Of a batch on each device, beginnings and endings each: a matrix unit is kept busy, and what a small model's layer
# makes of them fits a processor's caches.
TOKENS = 2048
CACHE_BYTES = 2**30  # keys and values of a batch's endings, over all devices
LOGITS_BYTES = 2**28  # of one token of every ending, over all devices
Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Width:
    """The size of a program: tokens of a beginning but its last, endings of each, tokens of an ending."""

    before: int
    endings: int
    after: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """numbers: of each ending, [D, E], -1 for padding. The rest as `_score` takes it."""

    numbers: np.ndarray
    arrays: dict[str, np.ndarray]
    width: Width


class ContinuationScorer:
    """Scores endings under any parameters of one architecture on one mesh."""

    def __init__(self, module: Transformer, mesh: Mesh):
        self._module, self._mesh = module, mesh
        self._shards = row_shards(mesh)

    def __call__(self, params: Params, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Of every (beginning, ending), token ids of neither of which is empty: the ending's summed log-likelihood, and
        whether each of its tokens is the is_argmax (of equals, the lowest id), in the order given."""
        check_ids((ids for pair in pairs for ids in pair), self._module.config.vocab_size)
        out: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        waiting: tuple[Batch, jax.Array, jax.Array] | None = None
        for batch in self._batches(pairs):
            logp, is_argmax = _score(
                self._module, self._mesh, batch.width.endings, params, put_batch(batch.arrays, self._mesh)
            )
            # The last batch is fetched while this one is computed.
            if waiting is not None:
                _note(out, pairs, *waiting)
            waiting = batch, logp, is_argmax
        if waiting is not None:
            _note(out, pairs, *waiting)
        return out

    def _batches(self, pairs: Sequence[tuple[Ids, Ids]]) -> Iterator[Batch]:
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, (before, _) in enumerate(pairs):
            groups.setdefault(tuple(before), []).append(number)
        kinds: dict[tuple[int, int], list[tuple[tuple[int, ...], list[int]]]] = {}
        for before, numbers in groups.items():
            # Endings beyond what a batch holds are scored as another document's.
            for first in range(0, len(numbers), 64):
                some = numbers[first : first + 64]
                longest = max(len(pairs[number][1]) for number in some)
                kinds.setdefault((_power(len(some)), _power(longest)), []).append((before, some))
        for (count, longest), documents in kinds.items():
            # The longest first, so that a batch that is not full is a small one.
            documents.sort(key=lambda document: -len(document[0]))
            while documents:
                width = Width(_padded(len(documents[0][0]) - 1), count, longest)
                rows = -(-min(self._rows(width), _power(len(documents))) // self._shards) * self._shards
                yield _batch(documents[:rows], pairs, width, rows)
                documents = documents[rows:]

    def _rows(self, width: Width) -> int:
        """Documents of that width in a batch, a power of two."""
        config, size = self._module.config, jnp.dtype(self._module.dtype).itemsize
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
        slots = width.endings * (width.before + width.after)
        most = min(
            self._shards * TOKENS // max(width.before, width.endings * (width.after - 1)),
            CACHE_BYTES // (token * slots),
            LOGITS_BYTES // (4 * config.vocab_size * width.endings),
        )
        return 1 << max(0, most.bit_length() - 1)


def _padded(length: int) -> int:
    step = SHORT if length <= 64 else LONG
    return max(step, -(-length // step) * step)


def _power(size: int) -> int:
    return 1 << (size - 1).bit_length()


def _batch(
    documents: Sequence[tuple[Ids, list[int]]], pairs: Sequence[tuple[Ids, Ids]], width: Width, rows: int
) -> Batch:
    before = np.zeros((rows, width.before), np.int32)
    last, places = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
    after = np.full((rows, width.endings, width.after), -1, np.int32)
    numbers = np.full((rows, width.endings), -1)
    for row, (ids, some) in enumerate(documents):
        places[row] = len(ids) - 1
        before[row, : places[row]] = ids[:-1]
        last[row] = ids[-1]
        numbers[row, : len(some)] = some
        for i, number in enumerate(some):
            after[row, i, : len(pairs[number][1])] = pairs[number][1]
    share = rows // jax.process_count()
    mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
    arrays = {"before": before, "last": last, "places": places, "after": after}
    return Batch(numbers, {name: value[mine] for name, value in arrays.items()}, width)


@functools.partial(jax.jit, static_argnames=("module", "mesh", "endings"))
def _score(
    module: Transformer, mesh: Mesh, endings: int, params: Params, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """log P and whether it is the is_argmax, [D, E, C], of the tokens `after` int [D, E, C] (-1: padding) that follow
    `before` [D, P], right-padded, and `last` [D] at `places` [D]."""
    before, places, after = batch["before"], batch["places"], batch["after"]
    rows, width = before.shape
    count = after.shape[-1]
    variables = {"params": params}
    shardings = cache_sharding(module, mesh)

    def pin(cache: Cache) -> Cache:
        return jax.lax.with_sharding_constraint(cache, shardings)

    # Every pass overwrites the padding behind the one before it, before attention can see those slots.
    positions = jnp.broadcast_to(jnp.arange(width), before.shape)
    cache = pin(empty_cache(module.config, rows, width + count, module.dtype))
    cache = pin(module.apply(variables, before, positions, cache, method="decode")[1])
    states, cache = module.apply(variables, batch["last"][:, None], places[:, None], cache, method="decode")
    head = module.apply(variables, method="head")

    def answer(states: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of labels [R, N] that may follow each of the states [R, D']."""
        logits = jnp.einsum("rd,dv->rv", states, head, preferred_element_type=jnp.float32)
        logits = soft_capped(logits, module.config.logit_soft_cap)
        picked = jnp.take_along_axis(logits, jnp.maximum(labels, 0), axis=-1)
        logp = jnp.where(labels >= 0, picked - jax.nn.logsumexp(logits, axis=-1, keepdims=True), 0.0)
        return logp, (jnp.argmax(logits, axis=-1)[:, None] == labels) | (labels < 0)

    # A first token follows the beginning itself: one row of logits for all endings.
    logp, is_argmax = (x[..., None] for x in answer(states[:, 0], after[..., 0]))  # [D, E, 1]
    if count > 1:
        cache = pin(jax.tree.map(lambda x: jnp.repeat(x, endings, axis=1), cache))
        labels = after.reshape(rows * endings, count)
        slots = jnp.repeat(places, endings)[:, None] + 1 + jnp.arange(count - 1)
        states, _ = module.apply(variables, jnp.maximum(labels[:, :-1], 0), slots, cache, method="decode")
        # One token of every ending at a time, so that few logits exist.
        tokens = states.swapaxes(0, 1), labels[:, 1:].swapaxes(0, 1)[..., None]  # [C-1, D E, D'], [C-1, D E, 1]
        rest = jax.lax.map(lambda token: answer(*token), tokens)
        rest = (x[..., 0].swapaxes(0, 1).reshape(rows, endings, count - 1) for x in rest)
        logp, is_argmax = (jnp.concatenate(x, axis=-1) for x in zip((logp, is_argmax), rest, strict=True))
    whole = NamedSharding(mesh, PartitionSpec())
    return jax.lax.with_sharding_constraint((logp, is_argmax), whole)


def _note(
    out: list[tuple[float, bool]],
    pairs: Sequence[tuple[Ids, Ids]],
    batch: Batch,
    logp: jax.Array,
    is_argmax: jax.Array,
) -> None:
    """Writes a batch's answers where they belong."""
    sums = np.asarray(logp).sum(axis=-1, dtype=np.float64)
    greedy = np.asarray(is_argmax).all(axis=-1)
    for row, i in zip(*np.nonzero(batch.numbers >= 0), strict=True):
        out[batch.numbers[row, i]] = float(sums[row, i]), bool(greedy[row, i])
