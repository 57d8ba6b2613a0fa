"""The noise of UNDO: its scale for matrices, vectors that only shrink, and equal values under any mesh."""

import jax
import numpy as np
import pytest

from jaxforget.sharding import make_mesh, shard_params
from jaxforget.train.noise import perturb
from tests.train.tiny import PLAIN, llama_params

ALPHA, BETA = 0.4, 0.5


def named(tree):
    found, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {"/".join(part.key for part in path): np.asarray(leaf) for path, leaf in found}


def test_matrices_get_uniform_noise_of_xaviers_scale_and_vectors_shrink():
    before = llama_params(PLAIN, 0)
    after = named(perturb(before, ALPHA, BETA, jax.random.key(3)))
    for name, weight in named(before).items():
        noise = (after[name] - (1 - ALPHA) * weight) / (ALPHA * BETA)
        if name.endswith(("scale", "bias")):
            np.testing.assert_allclose(noise, 0, atol=1e-5)
            continue
        bound = np.sqrt(6 / sum(weight.shape[-2:]))
        assert np.abs(noise).max() <= bound + 1e-4
        np.testing.assert_allclose(noise.std(), bound / np.sqrt(3), rtol=0.1)  # of a uniform distribution
        np.testing.assert_allclose(noise.mean(), 0, atol=0.1 * bound)
        if name.startswith("layers/"):
            assert np.abs(noise[0] - noise[1]).max() > bound / 10  # each layer has noise of its own
    assert not np.array_equal(*(after[f"layers/{name}/kernel"] for name in ("gate", "up")))


def test_alpha_0_changes_nothing():
    before = llama_params(PLAIN, 0)
    after = perturb(before, 0.0, BETA, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("sizes", [(1, 8, 1), (2, 2, 2), (1, 2, 4)])
def test_the_noise_is_the_same_under_any_mesh_and_another_under_another_seed(devices, sizes):
    def under(sizes, seed=7):
        mesh = make_mesh(*sizes, devices=devices[: sizes[0] * sizes[1] * sizes[2]])
        where = shard_params(llama_params(PLAIN, 0), mesh)
        step = jax.jit(lambda p, key: perturb(p, ALPHA, BETA, key), out_shardings=where)
        return named(step(jax.device_put(llama_params(PLAIN, 0), where), jax.random.key(seed)))

    one, many, other = under((1, 1, 1)), under(sizes), under(sizes, seed=8)
    for name in one:
        np.testing.assert_allclose(one[name], many[name], rtol=0, atol=1e-7)
        if "norm" not in name and not name.endswith("bias"):
            assert not np.array_equal(many[name], other[name])
