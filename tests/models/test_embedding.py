"""The embedding's rows and their gradient beside plain indexing, on meshes of every kind; sums that bf16 would lose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxforget.models.embedding import ShardedLookUp, look_up
from jaxforget.sharding import ActivationSharding, make_mesh, put_batch

ROWS, LENGTH, WORDS = 16, 6, 20
MESHES = [(1, 8, 1), (2, 4, 1), (8, 1, 1), (2, 2, 2), (1, 1, 1)]


def inputs(width=8, dtype=np.float32):
    rng = np.random.default_rng(0)
    table = jnp.asarray(rng.standard_normal((WORDS, width), np.float32), dtype)
    gradient = jnp.asarray(rng.standard_normal((ROWS, LENGTH, width), np.float32), dtype)
    return table, rng.integers(0, WORDS, (ROWS, LENGTH), np.int32), gradient


def run(function, table, tokens, gradient):
    """Rows, and the gradient with respect to the table of their product with `gradient`."""

    def both(table, tokens):
        rows, back = jax.vjp(lambda table: function(table, tokens), table)
        return rows, back(gradient)[0]

    return jax.jit(both)(table, tokens)


@pytest.mark.parametrize("width", [8, 6], ids=["columns split", "columns do not divide"])
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_mesh_looks_up_and_sums_alike(sizes, width):
    mesh = make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    table, tokens, gradient = inputs(width)
    expected = np.zeros(table.shape, np.float64)
    np.add.at(expected, tokens, np.asarray(gradient, np.float64))
    for function in (look_up, ShardedLookUp(mesh)):
        rows, found = run(function, table, tokens, gradient)
        np.testing.assert_array_equal(rows, np.asarray(table)[tokens])
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("rows", [ROWS, 3], ids=["rows split", "rows do not divide"])
def test_outside_of_any_jit(rows):
    mesh = make_mesh(2, 2, 2)
    table, tokens, _ = inputs()
    placed = jax.device_put(table, NamedSharding(mesh, PartitionSpec("tensor", "fsdp")))
    np.testing.assert_array_equal(ShardedLookUp(mesh)(placed, tokens[:rows]), np.asarray(table)[tokens[:rows]])


@pytest.mark.parametrize("sizes", [None, (1, 8, 1), (2, 4, 1)], ids=str)
def test_a_frequent_word_loses_nothing_in_bfloat16(sizes):
    function = look_up if sizes is None else ShardedLookUp(make_mesh(*sizes))
    table, tokens, gradient = inputs(dtype=jnp.bfloat16)
    tokens = np.tile(tokens, (1, 40))
    tokens[:, ::2] = 3  # every second word of 3,840
    gradient = jnp.tile(gradient, (1, 40, 1)) + 1
    found = run(function, table, tokens, gradient)[1]
    assert found.dtype == jnp.bfloat16
    expected = np.zeros(table.shape, np.float64)
    np.add.at(expected, tokens, np.asarray(gradient, np.float64))
    assert np.abs(expected[3]).min() > 1500
    # One rounding, at the end.
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=2**-8, atol=1e-3)
    # Added up in bf16 it stops at 256: the next 1 is less than half its spacing.
    narrow = jax.jit(lambda: jnp.zeros_like(table).at[tokens].add(gradient))()
    assert np.abs(np.asarray(narrow, np.float64)[3] / expected[3] - 1).max() > 0.01


@pytest.mark.parametrize("sizes", [None, (1, 8, 1)], ids=str)
def test_an_id_beyond_the_table_shows_and_trains_nothing(sizes):
    function = look_up if sizes is None else ShardedLookUp(make_mesh(*sizes))
    table, tokens, gradient = inputs()
    wrong = tokens.copy()
    wrong[2, 3] = WORDS
    rows, found = run(function, table, wrong, gradient)
    assert np.isnan(rows[2, 3]).all()
    assert np.isfinite(np.delete(np.asarray(rows).reshape(-1, 8), 2 * LENGTH + 3, axis=0)).all()
    expected = np.asarray(run(look_up, table, tokens, gradient)[1]).copy()
    expected[tokens[2, 3]] -= np.asarray(gradient)[2, 3]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("sharded", "copies"), [(True, False), (False, True)])
def test_no_device_holds_the_whole_table_or_all_activations(sharded, copies):
    """On data x fsdp the compiler, left alone, gathers the table."""
    mesh = make_mesh(2, 4, 1)
    function = ShardedLookUp(mesh) if sharded else look_up
    table, tokens, gradient = inputs()
    table = jax.device_put(table, NamedSharding(mesh, PartitionSpec("tensor", "fsdp")))
    tokens, gradient = put_batch({"tokens": tokens, "gradient": np.asarray(gradient)}, mesh).values()
    pinned = ActivationSharding(mesh)

    def both(table, tokens, gradient):
        rows, back = jax.vjp(lambda table: pinned(function(table, tokens)), table)
        return rows, back(pinned(gradient))[0]

    lowered = jax.jit(both, out_shardings=(gradient.sharding, table.sharding)).lower(table, tokens, gradient)
    text = lowered.compile().as_text()
    whole = [f"f32[{','.join(map(str, array.shape))}]" for array in (table, gradient)]
    assert any(shape in text for shape in whole) == copies
