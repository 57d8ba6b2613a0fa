"""Scoring and generation by a loaded model, shared by the suites."""

import functools
from collections.abc import Sequence
from typing import Any

from jax.sharding import Mesh

from jaxforget.lm.continuations import ContinuationScorer
from jaxforget.lm.forward import make_forward
from jaxforget.lm.generate import Complete
from jaxforget.lm.model import Model
from jaxforget.lm.token_statistics import StatisticsScorer
from jaxforget.models.transformer import Transformer

BATCH, TILE = 16, 1024


def scorer_of(model: Model, batch: int = BATCH, tile: int = TILE) -> StatisticsScorer:
    """Return a scorer of token log-probabilities; models of one architecture on one mesh share it.

    Args:
      model: whose architecture is scored; its parameters are given with each call.
      batch: rows scored at a time.
      tile: tokens per device whose logits exist at a time.
    """
    return _scorer(model.module, model.mesh, batch, tile)


@functools.lru_cache(maxsize=4)
def _scorer(module: Transformer, mesh: Mesh, batch: int, tile: int) -> StatisticsScorer:
    # Cached, because each scorer compiles its own programs: the models of one run then share them.
    return StatisticsScorer(make_forward(module), mesh, batch=batch, tile=tile)


def continuation_scorer(model: Model) -> Any:
    """Return a function from pairs (token ids before, token ids of the continuation) to their log-likelihoods."""
    return functools.partial(_continuation_scorer(model.module, model.mesh), model.params)


@functools.lru_cache(maxsize=4)
def _continuation_scorer(module: Transformer, mesh: Mesh) -> ContinuationScorer:
    return ContinuationScorer(module, mesh)


def cached_generation(complete: Complete) -> Complete:
    """Return `complete` with a cache: the same prompts are never continued twice."""
    cache: dict[tuple[Any, int], list[list[int]]] = {}

    def cached(prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        key = (tuple(tuple(prompt) for prompt in prompts), new_tokens)
        if key not in cache:
            cache[key] = complete(prompts, new_tokens)
        return cache[key]

    return cached
