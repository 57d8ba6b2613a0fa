"""Suppression and equation 1 compared with loops over tokens and with METHOD.md's worked example."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxforget.train.targets import NEVER, generic_logits, suppress, suppression_table, without
from tests.train.tiny import ALPHA, LENGTH, ROWS, TRANSLATED, VOCABULARY, make_batch, slow_generic, trained


def test_generic_logits_equal_a_loop_over_words():
    batch = make_batch()
    rng = np.random.default_rng(1)
    v_base = rng.standard_normal((ROWS, TRANSLATED, VOCABULARY), np.float32)
    v_reinforced = rng.standard_normal((ROWS, LENGTH, VOCABULARY), np.float32)
    table = suppression_table(batch["suppress_ids"], batch["suppress_from"], VOCABULARY)
    rows, positions = np.nonzero(trained(batch))
    places = batch["position_map"][rows, positions]

    base = suppress(v_base[rows, places], table[rows], places)
    ours = generic_logits(base, v_reinforced[rows, positions], ALPHA)

    theirs = [slow_generic(v_base, v_reinforced, batch, row, at)[1] for row, at in zip(rows, positions, strict=True)]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)
    assert (np.asarray(base) != v_base[rows, places]).any(), "nothing was suppressed: the comparison shows nothing"


def test_worked_example():
    # METHOD.md section 4: X (token 7) is recorded at 1 and 7, Y1 (token 9) at 3 and 9.
    table = suppression_table(np.array([[7, 9, 7, 9, -1]]), np.array([[1, 3, 7, 9, -1]]), 12)
    v_base = np.arange(12, dtype=np.float32)
    positions = np.arange(13)
    kept = np.asarray(suppress(np.tile(v_base, (13, 1)), np.tile(table, (13, 1)), positions))
    suppressed = [set(np.nonzero(row != v_base)[0].tolist()) for row in kept]
    assert suppressed == [set()] * 2 + [{7}] * 2 + [{7, 9}] * 9
    assert set(kept[12, [7, 9]].tolist()) == {5.5}


def test_mean_is_taken_before_replacing():
    # If the mean were taken after a replacement, the second token's mean would be wrong.
    v_base = np.array([[100.0, 50.0, 0.0, 0.0]], np.float32)
    table = np.array([[0, 0, NEVER, NEVER]], np.int32)
    assert suppress(v_base, table, np.array([1])).tolist() == [[37.5, 37.5, 0.0, 0.0]]


def test_table_keeps_the_earliest_and_ignores_padding():
    table = np.asarray(suppression_table(np.array([[2, 2, -1], [-1, -1, -1]]), np.array([[9, 4, 0], [0, 0, 0]]), 5))
    assert table.dtype == np.int32
    # An unmasked -1 would address the last token.
    assert table.tolist() == [[NEVER, NEVER, 4, NEVER, NEVER], [NEVER] * 5]


def test_equation_1():
    v = generic_logits(jnp.array([1.0, 1.0, -2.0]), jnp.array([3.0, 0.0, -2.0]), 5.0)
    assert v.tolist() == [-9.0, 1.0, -2.0]
    assert jax.eval_shape(lambda x: generic_logits(x, x, 5.0), jnp.zeros((2, 3))).dtype == jnp.float32


def test_suppressed_tokens_are_never_the_target():
    logits = jnp.array([[5.0, 1.0, 3.0, -1.0], [0.0, 9.0, 8.0, 7.0]])
    found = without(logits, (0, 1))
    np.testing.assert_allclose(found, [[2, 2, 3, -1], [6, 6, 8, 7]])
    assert without(logits, ()) is logits
