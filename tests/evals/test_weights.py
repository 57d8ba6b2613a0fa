"""Rounded and interpolated weights beside numbers worked out by hand and beside numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxforget.evals.weights import interpolated, quantized, rounded
from tests.train.tiny import mesh_of


def test_rounding_by_hand():
    """With 4 bits there are 7 positive steps, so a largest weight of 7 gives step 1, and one of 3.5 gives 0.5."""
    weights = jnp.array([[[7.0, 3.5, 0.0], [2.4, -3.3, 0.0], [-2.6, 0.2, 0.0]]])
    assert rounded(weights, 4).tolist() == [[[7.0, 3.5, 0.0], [2.0, -3.5, 0.0], [-3.0, 0.0, 0.0]]]
    assert rounded(weights.astype(jnp.bfloat16), 4).dtype == jnp.bfloat16


@pytest.mark.parametrize("bits", [4, 8])
def test_every_weight_is_the_nearest_of_its_channels_levels(bits):
    weights = np.random.default_rng(0).normal(size=(2, 16, 5)).astype(np.float32)
    found = np.asarray(rounded(jnp.array(weights), bits))
    for layer in range(2):
        for channel in range(5):
            column = weights[layer, :, channel]
            levels = np.abs(column).max() / (2 ** (bits - 1) - 1) * np.arange(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1))
            nearest = levels[np.abs(column[:, None] - levels).argmin(axis=1)]
            np.testing.assert_allclose(found[layer, :, channel], nearest, rtol=1e-6, atol=1e-7)


def params(seed: int, sharding) -> dict:
    rng = np.random.default_rng(seed)

    def leaf(*shape: int) -> jax.Array:
        return jax.device_put(jnp.array(rng.normal(size=shape), jnp.float32), sharding)

    layers = {"q": {"kernel": leaf(2, 8, 4), "bias": leaf(2, 4)}, "mlp_norm": {"scale": leaf(2, 8)}}
    return {"embed": leaf(6, 8), "layers": layers, "lm_head": leaf(8, 6)}


def test_only_the_layers_matrices_are_rounded_and_stay_where_they_lie():
    mesh = mesh_of(fsdp=2)
    before = params(0, NamedSharding(mesh, PartitionSpec()))
    before["layers"]["q"]["kernel"] = jax.device_put(
        before["layers"]["q"]["kernel"], NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    )
    after = quantized(before, 4)
    changed = {
        jax.tree_util.keystr(path)
        for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(before), strict=True)
        if not np.array_equal(a, b)
    }
    assert changed == {"['layers']['q']['kernel']"}
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
        assert a.sharding == b.sharding


def test_interpolation_ends_at_both_models_and_is_linear_between():
    whole = NamedSharding(mesh_of(fsdp=1), PartitionSpec())
    base, model = params(1, whole), params(2, whole)
    for share in (0.0, 0.25, 1.0):
        for b, m, x in zip(*map(jax.tree.leaves, (base, model, interpolated(base, model, share))), strict=True):
            np.testing.assert_allclose(x, b + share * (m - b), rtol=1e-6, atol=1e-6)
