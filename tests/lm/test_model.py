"""A loaded model: its layout on a mesh, its representation, and the arguments that are refused."""

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from jaxforget.config import options
from jaxforget.errors import UserError
from jaxforget.lm.forward import ATTENTIONS, param_shapes, param_shardings
from jaxforget.lm.model import DTYPES, load
from jaxforget.models.transformer import REMATS
from jaxforget.sharding import make_mesh


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_have_the_announced_shapes_and_places(dtype, tiny_world):
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    model = load(tiny_world / "base", dtype, mesh)
    shapes = param_shapes(model.config, jnp.dtype(dtype))
    assert jax.tree.map(lambda p: (p.shape, p.dtype), model.params) == jax.tree.map(
        lambda s: (s.shape, s.dtype), shapes
    )
    assert jax.tree.map(lambda p: p.sharding, model.params) == param_shardings(model.config, mesh)
    assert model.mesh is mesh
    flat = traverse_util.flatten_dict(model.params, sep="/")
    # Split over fsdp and tensor, so that a device holds a quarter.
    kernel = flat["layers/gate/kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // 4


def test_without_a_mesh_all_devices_share(tiny_world, devices, monkeypatch):
    monkeypatch.setattr("jaxforget.lm.model.make_mesh", make_mesh)  # tests/conftest.py has it take two devices
    assert dict(load(tiny_world / "base").mesh.shape) == {"data": 1, "fsdp": 8, "tensor": 1}


def test_the_choices_of_the_options_are_those_of_load():
    choices = {name: set(field.metadata["choices"]) for name, field in options()}
    for name, known in (("dtype", DTYPES), ("remat", REMATS), ("attention", ATTENTIONS)):
        assert choices[f"model.{name}"] == set(known)


def test_equal_settings_share_a_compilation(tiny_world):
    first, second = (load(tiny_world / "base").module for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_what_it_refuses(tiny_world, tmp_path):
    with pytest.raises(UserError, match="dtype='int8': give one of float32, bfloat16"):
        load(tiny_world / "base", "int8")
    with pytest.raises(UserError, match="no such folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(UserError, match="config.json: no such file"):
        load(tmp_path)


def test_a_model_is_shown_on_one_line(tiny_world):
    model = load(tiny_world / "base", mesh=make_mesh())
    shown = repr(model)
    assert "\n" not in shown
    for part in ("llama", "parameters", "float32", "8 x cpu", str(tiny_world / "base")):
        assert part in shown
