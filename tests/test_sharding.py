"""The mesh, the sharding rules of parameters, and batches on the mesh."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxforget import sharding
from jaxforget.errors import UserError
from jaxforget.lm.forward import param_shapes
from jaxforget.models.config import ModelConfig

SHAPES = param_shapes(ModelConfig(128, 64, 96, 2, 4, 2, 16, attention_bias=True, mlp_bias=True), np.float32)


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ({}, (1, 8, 1)),
        ({"data": 2}, (2, 4, 1)),
        ({"data": -1, "fsdp": 2, "tensor": 2}, (2, 2, 2)),
        ({"data": 2, "fsdp": 2, "tensor": -1}, (2, 2, 2)),
        ({"fsdp": 1, "data": 1, "tensor": 8}, (1, 1, 8)),
    ],
    ids=str,
)
def test_mesh(asked, made):
    mesh = sharding.make_mesh(**asked)
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert tuple(mesh.shape.values()) == made
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


def test_mesh_over_some_devices(devices):
    assert sharding.make_mesh(devices=devices[2:4]).devices.flatten().tolist() == devices[2:4]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"data": 3}, "mesh.data=3, mesh.fsdp=-1, mesh.tensor=1: does not divide 8 devices"),
        ({"fsdp": 4}, "mesh.data=1, mesh.fsdp=4, mesh.tensor=1: does not divide 8 devices"),
        ({"fsdp": 16}, "does not divide 8 devices"),
        ({"data": -1}, "at most one is -1"),
        ({"data": 0}, "sizes are positive"),
        ({"tensor": -2}, "sizes are positive"),
    ],
    ids=str,
)
def test_mesh_that_cannot_be(asked, told):
    with pytest.raises(UserError, match=told) as error:
        sharding.make_mesh(**asked)
    assert "\n" not in str(error.value)


def test_every_parameter_has_a_place():
    placed = jax.tree.map(lambda s: tuple(s.spec), sharding.shard_params(SHAPES, sharding.make_mesh(2, 2, 2)))
    kernel, bias = {"kernel": (None, "fsdp", "tensor")}, {"bias": (None, "tensor")}
    back, back_bias = {"kernel": (None, "tensor", "fsdp")}, {"bias": (None, "fsdp")}
    norm = {"scale": (None, None)}
    assert placed == {
        "embed": ("tensor", "fsdp"),
        "lm_head": ("fsdp", "tensor"),
        "layers": {
            **dict.fromkeys(("q", "k", "v", "gate", "up"), kernel | bias),
            "o": back | back_bias,
            "down": {"kernel": (None, ("tensor", "fsdp"), None)} | back_bias,
            "attention_norm": norm,
            "mlp_norm": norm,
        },
        "norm": {"scale": (None,)},
    }


def test_each_device_holds_its_part():
    mesh = sharding.make_mesh()
    placed = jax.device_put(
        jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), SHAPES), sharding.shard_params(SHAPES, mesh)
    )
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(placed))
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(placed))
    # Norms and some biases are replicated; of every other parameter a device has an eighth.
    assert total / 8 < held < total / 7


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("embed", (32_001, 64), (None, "fsdp")),
        ("lm_head", (34, 211), (None, None)),
        ("layers/q/kernel", (2, 34, 64), (None, None, "tensor")),
        ("layers/o/kernel", (3, 64, 34), (None, "tensor", None)),
    ],
)
def test_an_axis_that_does_not_divide_stays_whole(name, shape, spec):
    assert tuple(sharding.spec_for(name, shape, sharding.make_mesh(tensor=2, fsdp=4))) == spec


@pytest.mark.parametrize("name", ["layers/extra/kernel", "layers/q/kernel/more", "my_embed", "norm"])
def test_a_parameter_without_a_rule_is_an_error(name):
    with pytest.raises(ValueError, match=f"no sharding rule matches parameter '{name}'"):
        sharding.spec_for(name, (8, 8), sharding.make_mesh())


def test_no_rule_names_an_axis_twice():
    for pattern, spec in sharding.RULES:
        axes = [axis for axis in spec if axis is not None]
        assert len(axes) == len(set(axes)), pattern


def test_batch_rows_are_split_and_nothing_else():
    mesh = sharding.make_mesh(2, 2, 2)
    batch = {"tokens": np.arange(48, dtype=np.int32).reshape(8, 6), "retain": np.arange(8, dtype=np.float32)}
    put = sharding.put_batch(batch, mesh)
    for name, value in batch.items():
        np.testing.assert_array_equal(put[name], value)
        assert put[name].dtype == value.dtype
        # Four parts of two rows each; devices along the tensor axis have copies.
        assert {shard.data.shape for shard in put[name].addressable_shards} == {(2, *value.shape[1:])}
    assert put["tokens"].sharding == NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def test_activations_are_pinned():
    mesh = sharding.make_mesh()
    pin = sharding.ActivationSharding(mesh)
    assert pin == sharding.ActivationSharding(sharding.make_mesh())
    pinned = jax.jit(lambda: pin(jax.numpy.zeros((8, 3, 4))))()
    assert pinned.sharding.is_equivalent_to(sharding.batch_sharding(mesh), 3)
