"""The method whp_flat: its loss on whole logits, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.train.objectives.whp_flat import SMOOTH, WhpFlat
from jaxforget.train.tiles import Tile, TileInputs

VOCAB, TOKENS, TERMS = 23, 12, (3, 4, 9, 17)


def tile_of(labels, following):
    return Tile(jnp.arange(TOKENS), TOKENS, TileInputs(rows={"labels": labels[None], "next": following[None]}), None)


@pytest.mark.parametrize("spread", [0.0, 0.5])
def test_a_tile_is_the_definition_on_whole_logits(spread):
    rng = np.random.default_rng(5)
    logits = jnp.asarray(rng.normal(size=(TOKENS, VOCAB)) * 4, jnp.float32)
    labels = jnp.asarray(rng.integers(0, VOCAB, TOKENS), jnp.int32)
    following = jnp.asarray([*TERMS, *rng.integers(0, VOCAB, TOKENS - len(TERMS))], jnp.int32)
    prior = jax.nn.softmax(spread * np.random.default_rng(0).standard_normal(len(TERMS)))

    def dense(logits):
        logp = jax.nn.log_softmax(logits)
        among = jax.nn.log_softmax(logits[:, jnp.array(TERMS)])
        divergence = jnp.sum(prior * (jnp.log(prior) - among), axis=-1)
        flat = 7.0 * (jnp.sqrt(divergence + SMOOTH) - jnp.sqrt(SMOOTH))
        begins = jnp.isin(following, jnp.array(TERMS))
        return -jnp.take_along_axis(logp, labels[:, None], axis=-1)[:, 0] + jnp.where(begins, flat, 0.0)

    objective = WhpFlat(cached=True, flat=7.0, spread=spread, terms=TERMS)
    loss, gradient = objective.tile_loss(logits, tile_of(labels, following))
    expected = jax.grad(lambda logits: dense(logits).sum())(logits)
    np.testing.assert_allclose(loss, dense(logits), rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)


def test_a_student_that_does_not_tell_the_terms_apart_has_no_divergence():
    logits = jnp.zeros((TOKENS, VOCAB)).at[:, jnp.array(TERMS)].set(-9.0)
    labels, following = jnp.zeros(TOKENS, jnp.int32), jnp.full(TOKENS, TERMS[0])
    plain = WhpFlat(cached=True, flat=0.0, spread=0.0, terms=TERMS)
    flat = WhpFlat(cached=True, flat=100.0, spread=0.0, terms=TERMS)
    for one, other in zip(
        plain.tile_loss(logits, tile_of(labels, following)),
        flat.tile_loss(logits, tile_of(labels, following)),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_labels_never_name_a_term_and_other_first_tokens_may_be_labels():
    summary = {"anchor_first_tokens": [3, 4, 9, 11], "term_tokens": [3, 4]}
    assert WhpFlat().prepared(summary).never == (3, 4)
    assert WhpFlat(suppress="all").prepared(summary).never == (3, 4, 9, 11)
    assert WhpFlat().prepared(summary).terms == (3, 4)


def test_a_text_without_terms_of_its_own_is_refused():
    with pytest.raises(UserError, match=r"method=whp_flat: 1 tokens .*anchors.path"):
        WhpFlat().prepared({"anchor_first_tokens": [3, 4], "term_tokens": [3]})


def test_blocks_of_an_older_version_are_refused_with_the_remedy():
    with pytest.raises(UserError, match="prepared by an older version.*remove the run's folder blocks"):
        WhpFlat().prepared({"anchor_first_tokens": [3, 4]})
