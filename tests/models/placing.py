"""Placement of a model's parameters on a mesh; separate from tiny.py, which imports torch."""

import jax
from flax import traverse_util

from jaxforget import sharding
from jaxforget.models.layout import leaves


def shardings_of(config, mesh):
    """Shardings of the parameters of a Llama of shape `config`."""
    flat = {leaf.name: jax.ShapeDtypeStruct(leaf.shape, "float32") for leaf in leaves(config)}
    return sharding.shard_params(traverse_util.unflatten_dict(flat, sep="/"), mesh)
