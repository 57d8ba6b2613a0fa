"""Endings after shared beginnings, beside the same log-probabilities from whole logits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.lm import continuations as endings
from jaxforget.lm.continuations import ContinuationScorer
from jaxforget.models.config import ModelConfig
from jaxforget.models.transformer import Transformer
from jaxforget.sharding import shard_params
from tests.train.tiny import mesh_of

VOCABULARY = 50
CONFIG = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=128,
)


@pytest.fixture(scope="module")
def params():
    made = Transformer(CONFIG).init(jax.random.key(0), jnp.zeros((1, 2), jnp.int32))["params"]
    return jax.tree.map(lambda p: p * 8 if p.ndim > 1 else p, made)  # far from uniform


@jax.jit
def every_logp(params, tokens):
    return jax.nn.log_softmax(Transformer(CONFIG).apply({"params": params}, tokens))


def logp_after(params, ids) -> np.ndarray:
    """Log-probabilities after every token of `ids`, fp64 [n, V]: padded to one width, so that it is one program."""
    padded = jnp.array([[*ids, *[0] * (96 - len(ids))]])
    return np.float64(every_logp(params, padded))[0, : len(ids)]


def whole(params, before, after) -> tuple[float, bool]:
    logp = logp_after(params, [*before, *after])[len(before) - 1 : -1]
    greedy = [int(i) for i in logp.argmax(axis=-1)]
    return logp[np.arange(len(after)), after].sum(), greedy == list(after)


def some_pairs(params) -> list[tuple[list[int], list[int]]]:
    rng = np.random.default_rng(0)

    def ids(count: int) -> list[int]:
        return rng.integers(0, VOCABULARY, count).tolist()

    pairs = []
    for length, lengths in ((3, (1, 1, 1, 1)), (8, (1, 1)), (9, (2, 5, 1)), (40, (3, 3, 9, 1, 2)), (70, (17,))):
        before = ids(length)
        pairs += [(before, ids(count)) for count in lengths]
    # One that the model itself would say.
    before, said = ids(5), []
    for _ in range(3):
        said.append(int(logp_after(params, [*before, *said])[-1].argmax()))
    return [*pairs, (before, said)]


@pytest.mark.parametrize("fsdp", [1, 8])
def test_as_from_whole_logits(params, fsdp):
    pairs = some_pairs(params)
    order = np.random.default_rng(1).permutation(len(pairs))
    pairs = [pairs[i] for i in order]
    mesh = mesh_of(fsdp=fsdp)
    placed = jax.device_put(params, shard_params(jax.eval_shape(lambda: params), mesh))
    found = ContinuationScorer(Transformer(CONFIG), mesh)(placed, pairs)
    expected = [whole(params, *pair) for pair in pairs]
    np.testing.assert_allclose([s for s, _ in found], [s for s, _ in expected], atol=2e-5, rtol=1e-5)
    assert [g for _, g in found] == [g for _, g in expected]
    assert sum(g for _, g in expected) >= 1


def test_small_batches_and_many_endings_change_nothing(params, monkeypatch):
    rng = np.random.default_rng(2)
    before = [1, 2, 3]
    pairs = [(before, [int(i)]) for i in rng.integers(0, VOCABULARY, 70)] + some_pairs(params)
    scorer = ContinuationScorer(Transformer(CONFIG), mesh_of())
    at_once = scorer(params, pairs)
    monkeypatch.setattr(endings, "TOKENS", 64)
    in_pieces = scorer(params, pairs)
    np.testing.assert_allclose([s for s, _ in in_pieces], [s for s, _ in at_once], atol=2e-5)
    assert [g for _, g in in_pieces] == [g for _, g in at_once]


def test_a_beginning_is_read_once_for_all_its_endings(params):
    pairs = [([5, 6, 7], [i]) for i in range(4)] + [([5, 6], [i, 9]) for i in range(4)]
    batches = list(ContinuationScorer(Transformer(CONFIG), mesh_of())._batches(pairs))
    assert [batch.arrays["before"].shape for batch in batches] == [(1, 8), (1, 8)]
    assert [batch.width.after for batch in batches] == [1, 2]
    # Another two documents of that size run the same programs.
    before = scoring_programs(params, pairs)
    assert scoring_programs(params, [([8, *first[1:]], last) for first, last in pairs]) == before


def scoring_programs(params, pairs) -> int:
    ContinuationScorer(Transformer(CONFIG), mesh_of())(params, pairs)
    return endings._score._cache_size()


def test_batches_are_cut_from_the_longest_on_and_the_last_is_small(monkeypatch):
    monkeypatch.setattr(endings, "TOKENS", 64)
    pairs = [([1] * (length - 1) + [number], [7]) for number, length in enumerate((3, 17, 9, 5, 12, 8))]
    batches = list(ContinuationScorer(Transformer(CONFIG), mesh_of())._batches(pairs))
    # Of 16 tokens before the last one, 64 / 16 rows; then 8 before the last, as many rows as are left.
    assert [batch.arrays["before"].shape for batch in batches] == [(4, 16), (2, 8)]
    assert [batch.numbers[:, 0].tolist() for batch in batches] == [[1, 4, 2, 5], [3, 0]]
    assert batches[0].arrays["places"].tolist() == [16, 11, 8, 7]
    assert batches[0].arrays["last"].tolist() == [1, 4, 2, 5]
