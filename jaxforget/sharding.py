"""The mesh, the sharding rules of parameters, and batches put onto the mesh.

Mesh axes: `data` replicates parameters, `fsdp` splits them and the batch, `tensor` splits them within a layer.
"""

import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxforget.errors import UserError

AXES = ("data", "fsdp", "tensor")
ROW_AXES = ("data", "fsdp")  # those that split the rows of a batch
BATCH = PartitionSpec(ROW_AXES)

# The first match that divides wins; a parameter that no rule names is an error. The leading axis of stacked layers is
# never split.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"embed", PartitionSpec("tensor", "fsdp")),
    (r"lm_head", PartitionSpec("fsdp", "tensor")),
    # A kernel or a difference from one, as floats or as int8 values with their scale.
    (r"layers/(q|k|v|gate|up)/(kernel|delta)(/values|/scale)?", PartitionSpec(None, "fsdp", "tensor")),
    # Split over its inputs: the partial sums that devices exchange are then as wide as the model, not as its wider
    # feed-forward.
    (r"layers/down/(kernel|delta)(/values)?", PartitionSpec(None, ("tensor", "fsdp"))),
    (r"layers/(o|down)/(kernel|delta)(/values|/scale)?", PartitionSpec(None, "tensor", "fsdp")),
    (r"layers/(q|k|v|gate|up)/lora/a", PartitionSpec(None, "fsdp")),
    (r"layers/(q|k|v|gate|up)/lora/b", PartitionSpec(None, "fsdp", "tensor")),
    (r"layers/(o|down)/lora/a", PartitionSpec(None, "tensor", "fsdp")),
    (r"layers/(o|down)/lora/b", PartitionSpec(None, None, "fsdp")),
    (r"layers/(q|k|v|gate|up)/bias", PartitionSpec(None, "tensor")),
    (r"layers/(o|down)/bias", PartitionSpec(None, "fsdp")),
    (r"layers/\w+_norm/scale", PartitionSpec()),
    (r"norm/scale", PartitionSpec()),
)


def make_mesh(data: int = 1, fsdp: int = -1, tensor: int = 1, devices: list[jax.Device] | None = None) -> Mesh:
    """Return a mesh over devices.

    Args:
      data: size of the axis that replicates parameters.
      fsdp: size of the axis that splits parameters and the batch.
      tensor: size of the axis that splits parameters within a layer. One of the three may be -1, the rest.
      devices: None takes all.

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [data, fsdp, tensor]
    described = ", ".join(f"mesh.{name}={size}" for name, size in zip(AXES, sizes, strict=True))
    known = int(np.prod([size for size in sizes if size != -1]))
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"{described}: sizes are positive, and at most one is -1 (the rest)")
    if len(devices) % known or (-1 not in sizes and known != len(devices)):
        raise UserError(
            f"{described}: does not divide {len(devices)} devices; give sizes that do, one of them -1 (the rest)"
        )
    sizes = [len(devices) // known if size == -1 else size for size in sizes]
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def spec_for(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """Return the `PartitionSpec` of the parameter `name` ("layers/q/kernel").

    Where no matching rule divides the shape, the last one is taken, and an axis that its mesh axis does not divide (a
    vocabulary of 32,001 tokens, say) stays whole, which costs memory.
    """
    found = None
    for spec in (spec for pattern, spec in RULES if re.fullmatch(pattern, name)):
        axes = tuple(spec) + (None,) * (len(shape) - len(spec))
        found = tuple(axis if size % _parts(axis, mesh) == 0 else None for axis, size in zip(axes, shape, strict=True))
        if found == axes:
            break
    if found is None:
        raise ValueError(f"no sharding rule matches parameter {name!r}")
    return PartitionSpec(*found)


def _parts(axis: str | tuple[str, ...] | None, mesh: Mesh) -> int:
    """Return the number of parts that these mesh axes cut a dimension into."""
    axes = (axis,) if isinstance(axis, str) else axis or ()
    return math.prod(mesh.shape[name] for name in axes)


def shard_params(shapes: Any, mesh: Mesh) -> Any:
    """Return the `NamedSharding`s of a tree of parameter shapes (anything with `.shape`), by `RULES`."""

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return NamedSharding(mesh, spec_for(name, leaf.shape, mesh))

    return jax.tree.map_with_path(place, shapes)


def row_shards(mesh: Mesh) -> int:
    """Return the number of parts that a batch's rows are split into; every batch is a multiple of it."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Return the sharding of a batch: rows over `data` and `fsdp`, everything else whole."""
    return NamedSharding(mesh, BATCH)


@dataclasses.dataclass(frozen=True)
class ActivationSharding:
    """A constraint that gives [B, S, D] activations the batch's sharding on `mesh`.

    Without it the partitioner may carry the embedding table's layout into the layers and gather activations in each.
    Two of equal meshes are equal, so that modules of equal settings share one compilation.
    """

    mesh: Mesh

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return `x` with the constraint."""
        return jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put this process's rows [B / processes, ...] onto the mesh as global arrays [B, ...]."""
    sharding = batch_sharding(mesh)
    # Among several processes JAX counts this as an implicit transfer, which the training loop refuses everywhere else.
    with jax.transfer_guard_host_to_device("allow"):
        return {name: jax.make_array_from_process_local_data(sharding, value) for name, value in batch.items()}


def put_rows(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Put arrays [B, ...] that every process holds whole onto the mesh; each process puts its own rows."""
    rows = len(next(iter(batch.values()))) // jax.process_count()
    mine = slice(jax.process_index() * rows, (jax.process_index() + 1) * rows)
    return put_batch({name: value[mine] for name, value in batch.items()}, mesh)
