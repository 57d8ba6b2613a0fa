"""Log-likelihoods of continuations after beginnings that several of them share; each beginning is read once.

The keys and values of a beginning are computed once and copied for its continuations, which take a short pass of their
own; a continuation of one token takes none. The tokens of a beginning before its last give only keys and values, so
the compiler drops the rest of the last layer where layers are unrolled. Documents are sorted by length and cut into
batches of few sizes, so that a few programs serve any number of documents.
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
from jaxforget.output_projection import logits_of
from jaxforget.sharding import put_batch, row_shards
from jaxforget.train.types import Params

SHORT, LONG = 8, 32  # beginnings up to 64 tokens are padded to a multiple of SHORT, longer ones to a multiple of LONG
# Tokens of the beginnings of a batch on each device, and as many of its continuations: enough to keep a matrix unit
# busy, and few enough for the activations of a small model to fit a processor's caches.
TOKENS = 2048
CACHE_BYTES = 2**30  # keys and values of a batch's continuations, over all devices
LOGITS_BYTES = 2**28  # logits of one token of every continuation, over all devices
Ids = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Width:
    """The static sizes of a program.

    Attributes:
      before: tokens of a beginning without its last one.
      continuations: continuations of each beginning.
      after: tokens of a continuation.
    """

    before: int
    continuations: int
    after: int


@dataclasses.dataclass(frozen=True)
class Batch:
    """Documents that are scored together.

    Attributes:
      numbers: position of each continuation in the caller's list, int [D, E]; -1 for padding.
      arrays: the batch of `_score`.
      width: the static sizes.
    """

    numbers: np.ndarray
    arrays: dict[str, np.ndarray]
    width: Width


class ContinuationScorer:
    """Scores continuations under any parameters of one architecture on one mesh."""

    def __init__(self, module: Transformer, mesh: Mesh):
        self._module, self._mesh = module, mesh
        self._shards = row_shards(mesh)

    def __call__(self, params: Params, pairs: Sequence[tuple[Ids, Ids]]) -> list[tuple[float, bool]]:
        """Score every pair (beginning, continuation) of token ids, neither of them empty.

        Returns:
          For each pair in the order given: the summed log-likelihood of the continuation in nats, and True if every
          token of it is the argmax (the lowest id among equals).
        """
        check_ids((ids for pair in pairs for ids in pair), self._module.config.vocab_size)
        out: list[tuple[float, bool]] = [(0.0, False)] * len(pairs)
        waiting: tuple[Batch, jax.Array, jax.Array] | None = None
        for batch in self._batches(pairs):
            logp, is_argmax = _score(
                self._module, self._mesh, batch.width.continuations, params, put_batch(batch.arrays, self._mesh)
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
            # More than 64 continuations are scored as those of several documents.
            for first in range(0, len(numbers), 64):
                some = numbers[first : first + 64]
                longest = max(len(pairs[number][1]) for number in some)
                kinds.setdefault((_power(len(some)), _power(longest)), []).append((before, some))
        for (count, longest), documents in kinds.items():
            # The longest come first, so that the last batch, which may not be full, is a small one.
            documents.sort(key=lambda document: -len(document[0]))
            while documents:
                width = Width(_padded(len(documents[0][0]) - 1), count, longest)
                rows = -(-min(self._rows(width), _power(len(documents))) // self._shards) * self._shards
                yield _batch(documents[:rows], pairs, width, rows)
                documents = documents[rows:]

    def _rows(self, width: Width) -> int:
        """Return the number of documents of that width in a batch, a power of two."""
        config, size = self._module.config, jnp.dtype(self._module.dtype).itemsize
        token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * size
        slots = width.continuations * (width.before + width.after)
        most = min(
            self._shards * TOKENS // max(width.before, width.continuations * (width.after - 1)),
            CACHE_BYTES // (token * slots),
            LOGITS_BYTES // (4 * config.vocab_size * width.continuations),
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
    after = np.full((rows, width.continuations, width.after), -1, np.int32)
    numbers = np.full((rows, width.continuations), -1)
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


@functools.partial(jax.jit, static_argnames=("module", "mesh", "continuations"))
def _score(
    module: Transformer, mesh: Mesh, continuations: int, params: Params, batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Return log P fp32 and whether the token is the argmax bool, both [D, E, C], of the tokens of continuations.

    Args:
      batch: `before` int [D, P], the beginnings without their last token, right-padded; `last` [D], that token;
        `places` [D], its position; `after` [D, E, C], the continuations, -1 for padding.
    """
    before, places, after = batch["before"], batch["places"], batch["after"]
    rows, width = before.shape
    count = after.shape[-1]
    variables = {"params": params}
    shardings = cache_sharding(module, mesh)

    def pin(cache: Cache) -> Cache:
        return jax.lax.with_sharding_constraint(cache, shardings)

    # Every pass overwrites the padding of the pass before it in the cache before attention can see those slots.
    positions = jnp.broadcast_to(jnp.arange(width), before.shape)
    cache = pin(empty_cache(module.config, rows, width + count, module.dtype))
    cache = pin(module.apply(variables, before, positions, cache, method="decode")[1])
    states, cache = module.apply(variables, batch["last"][:, None], places[:, None], cache, method="decode")
    head = module.apply(variables, method="head")

    def answer(states: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return both results for labels [R, N] that may follow each of the states [R, D']."""
        logits = logits_of(states, head, module.config.logit_soft_cap)
        picked = jnp.take_along_axis(logits, jnp.maximum(labels, 0), axis=-1)
        logp = jnp.where(labels >= 0, picked - jax.nn.logsumexp(logits, axis=-1, keepdims=True), 0.0)
        return logp, (jnp.argmax(logits, axis=-1)[:, None] == labels) | (labels < 0)

    # A first token follows the beginning itself, so all continuations share one row of logits.
    logp, is_argmax = (x[..., None] for x in answer(states[:, 0], after[..., 0]))  # [D, E, 1]
    if count > 1:
        cache = pin(jax.tree.map(lambda x: jnp.repeat(x, continuations, axis=1), cache))
        labels = after.reshape(rows * continuations, count)
        slots = jnp.repeat(places, continuations)[:, None] + 1 + jnp.arange(count - 1)
        states, _ = module.apply(variables, jnp.maximum(labels[:, :-1], 0), slots, cache, method="decode")
        # One token of every continuation at a time, so that few logits exist at once.
        tokens = states.swapaxes(0, 1), labels[:, 1:].swapaxes(0, 1)[..., None]  # [C-1, D E, D'], [C-1, D E, 1]
        rest = jax.lax.map(lambda token: answer(*token), tokens)
        rest = (x[..., 0].swapaxes(0, 1).reshape(rows, continuations, count - 1) for x in rest)
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
    """Write the results of a batch to their positions in `out`."""
    sums = np.asarray(logp).sum(axis=-1, dtype=np.float64)
    greedy = np.asarray(is_argmax).all(axis=-1)
    for row, i in zip(*np.nonzero(batch.numbers >= 0), strict=True):
        out[batch.numbers[row, i]] = float(sums[row, i]), bool(greedy[row, i])
