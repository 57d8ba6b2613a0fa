"""Statistics of every token for membership and memorisation tests, beyond its log-probability."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.lm.scoring import BUCKET, Scorer
from jaxforget.output_projection import logits_of
from jaxforget.sharding import put_batch, row_shards
from jaxforget.train.types import Forward, Params


@dataclasses.dataclass(frozen=True)
class TokenStatistics:
    """Statistics of a teacher-forced sequence of n tokens; every array is [n - 1], for the tokens 1 to n - 1.

    Attributes:
      logp: log-probability of the token, fp32.
      is_argmax: True if the token is the model's argmax (the lowest id among equals), bool.
      mean: expectation of log p over the vocabulary under p, fp32: minus the entropy.
      deviation: standard deviation of log p over the vocabulary under p, fp32.
    """

    logp: np.ndarray
    is_argmax: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


class StatisticsScorer(Scorer):
    """A `Scorer` that also returns `TokenStatistics`, with the same arguments, batches and buckets."""

    def __init__(self, forward: Forward, mesh: Mesh, *, batch: int, tile: int):
        super().__init__(forward, mesh, batch=batch, tile=tile)
        rows = self._batch // row_shards(mesh)
        # The number of positions at a time is a power of two up to BUCKET, so that it divides every bucket's width.
        step = min(BUCKET, 1 << (max(1, tile // rows).bit_length() - 1))

        def statistics(params: Params, tokens: jax.Array, labels: jax.Array) -> tuple[jax.Array, ...]:
            hidden, head = forward.hidden(params, tokens), forward.head(params)

            def tile_of(inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
                states, label = inputs  # [B, T, D], [B, T]
                logits = logits_of(states, head, forward.soft_cap)
                logp = jax.nn.log_softmax(logits, axis=-1)
                p = jnp.exp(logp)
                mean = jnp.sum(p * logp, axis=-1)
                # E[x^2] - E[x]^2 would be only rounding error where one token holds nearly all the mass.
                variance = jnp.sum(p * jnp.square(logp - mean[..., None]), axis=-1)
                picked = jnp.take_along_axis(logp, label[..., None], axis=-1)[..., 0]
                return picked, jnp.argmax(logits, axis=-1) == label, mean, jnp.sqrt(variance)

            rows, width = tokens.shape
            states = hidden.reshape(rows, width // step, step, -1).swapaxes(0, 1)  # [S / T, B, T, D]
            tiles = jax.lax.map(tile_of, (states, labels.reshape(rows, width // step, step).swapaxes(0, 1)))
            return tuple(x.swapaxes(0, 1).reshape(rows, width) for x in tiles)

        self._statistics = jax.jit(statistics, out_shardings=NamedSharding(mesh, PartitionSpec()))

    def statistics(self, params: Params, rows: Sequence[Sequence[int]]) -> list[TokenStatistics]:
        """Return the `TokenStatistics` of every sequence of token ids [n], in the order given."""
        out: list[TokenStatistics | None] = [None] * len(rows)
        for numbers, tokens, _ in self._buckets(rows):
            labels = np.zeros_like(tokens)
            labels[:, :-1] = tokens[:, 1:]
            batch = put_batch({"tokens": tokens, "labels": labels}, self._mesh)
            values = [np.asarray(x) for x in self._statistics(params, batch["tokens"], batch["labels"])]
            for row, number in enumerate(numbers):
                out[number] = TokenStatistics(*(x[row, : max(len(rows[number]) - 1, 0)] for x in values))
        return out
