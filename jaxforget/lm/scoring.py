"""Log-probabilities and next-token distributions of many texts, batched by length, with one compilation a bucket."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.models.tokenizer import check_ids
from jaxforget.output_projection import logits_of
from jaxforget.sharding import put_batch, row_shards
from jaxforget.train.tiles import tiled_log_probabilities
from jaxforget.train.types import Forward, Params

BUCKET = 32


def make_score_step(forward: Forward, mesh: Mesh, tile: int):
    """Return a compiled function `(params, tokens int [B, S], labels int [B, S]) -> log P(label) fp32 [B, S]`.

    The result is 0 where the label is -1. `tile` is the number of tokens whose logits exist at a time.
    """

    def log_probabilities(params: Params, tokens: jax.Array, labels: jax.Array) -> jax.Array:
        hidden, head = forward.hidden(params, tokens), forward.head(params)
        return tiled_log_probabilities(hidden, head, labels, mesh, tile, forward.soft_cap)

    return jax.jit(log_probabilities, out_shardings=NamedSharding(mesh, PartitionSpec()))


class Scorer:
    """Scores token sequences under any parameters of one architecture. Rows are padded to whole batches and buckets.

    Args:
      forward: the model.
      mesh: devices that it runs on.
      batch: rows at a time, rounded up to a multiple of the mesh's row shards.
      tile: tokens per device whose logits exist at a time.
    """

    def __init__(self, forward: Forward, mesh: Mesh, *, batch: int, tile: int):
        shards = row_shards(mesh)
        self._mesh, self._batch = mesh, -(-batch // shards) * shards
        whole = NamedSharding(mesh, PartitionSpec())

        def next_token(params: Params, tokens: jax.Array, last: jax.Array) -> jax.Array:
            hidden = forward.hidden(params, tokens)
            hidden = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]  # [B, D]: no [B, S, V] array
            return jax.nn.softmax(logits_of(hidden, forward.head(params), forward.soft_cap), axis=-1)

        self._vocabulary = lambda params: jax.eval_shape(forward.head, params).shape[-1]
        self._log_probabilities = make_score_step(forward, mesh, tile)
        self._next_token = jax.jit(next_token, out_shardings=whole)

    def log_probabilities(self, params: Params, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Return log P(token i + 1 | tokens 0..i) of every sequence of n tokens, fp32 [n - 1], in the order given."""
        check_ids(rows, self._vocabulary(params))
        out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
        for numbers, tokens, lengths in self._buckets(rows):
            labels = np.full_like(tokens, -1)
            valid = np.arange(tokens.shape[1] - 1)[None, :] < lengths[:, None] - 1
            labels[:, :-1] = np.where(valid, tokens[:, 1:], -1)
            batch = put_batch({"tokens": tokens, "labels": labels}, self._mesh)
            scores = np.asarray(self._log_probabilities(params, batch["tokens"], batch["labels"]))
            for row, number in enumerate(numbers):
                # Its own length: `lengths` are those of this process's rows only, `scores` those of all.
                out[number] = scores[row, : max(len(rows[number]) - 1, 0)]
        return out

    def next_token(self, params: Params, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the distribution of the token that follows each sequence, fp32 [rows, V]."""
        check_ids(rows, self._vocabulary(params))
        out: list[Any] = [None] * len(rows)
        for numbers, tokens, lengths in self._buckets(rows):
            batch = put_batch({"tokens": tokens, "last": np.maximum(lengths - 1, 0)}, self._mesh)
            scores = np.asarray(self._next_token(params, batch["tokens"], batch["last"]))
            for row, number in enumerate(numbers):
                out[number] = scores[row]
        return np.stack(out)

    def _buckets(self, rows: Sequence[Sequence[int]]):
        """Yield (row numbers, tokens int32 [batch, width], lengths int32 [batch]) until every row was given once."""
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for first in range(0, len(order), self._batch):
            numbers = order[first : first + self._batch]
            width = -(-max(1, *(len(rows[i]) for i in numbers)) // BUCKET) * BUCKET
            tokens = np.zeros((self._batch, width), np.int32)
            lengths = np.zeros(self._batch, np.int32)
            for row, number in enumerate(numbers):
                tokens[row, : len(rows[number])] = rows[number]
                lengths[row] = len(rows[number])
            share = self._batch // jax.process_count()
            mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
            if jax.process_count() == 1:
                yield numbers, tokens, lengths
            else:
                yield numbers, tokens[mine], lengths[mine]


def perplexity(scores: Sequence[np.ndarray]) -> float:
    """Return exp(mean token negative log-likelihood) over all tokens of all rows.

    Args:
      scores: from `Scorer.log_probabilities`, fp32 [tokens - 1] a row.
    """
    total, count = sum(float(row.sum(dtype=np.float64)) for row in scores), sum(len(row) for row in scores)
    return float(np.exp(-total / count))


def top_tokens(
    scorer: Scorer, params: Params, rows: Sequence[Sequence[int]], count: int
) -> list[list[tuple[int, float]]]:
    """Return the `count` most probable next tokens of every row (token ids [n]) as (id, probability), best first."""
    return [
        [(int(i), float(row[i])) for i in np.argsort(-row, kind="stable")[:count]]
        for row in scorer.next_token(params, rows)
    ]
