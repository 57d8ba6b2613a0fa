"""Look-up of embeddings by token, with a gradient summed in fp32, for a table on one device or split over many.

A frequent token occurs thousands of times in a batch, so its row's gradient is a sum of as many small numbers. In bf16,
which keeps 8 bits, each addition would round to 1/256 of the sum so far.

Letters in shapes: B rows, S positions, V vocabulary, D hidden.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxforget.sharding import ROW_AXES

Array = jax.Array


def _sum_by_token(like: Array, tokens: Array, gradient: Array) -> Array:
    """Return fp32 [V, D], the sum of `gradient` [B, S, D] for each token; ids beyond the table are ignored."""
    return jnp.zeros(like.shape, jnp.float32).at[tokens].add(gradient.astype(jnp.float32))


def _rows(table: Array, tokens: Array) -> Array:
    return jnp.take(table, tokens, axis=0)


@jax.custom_vjp
def look_up(table: Array, tokens: Array) -> Array:
    """Return [B, S, D], the rows of table [V, D] at tokens int [B, S]; NaN where an id is beyond the table."""
    return _rows(table, tokens)


def _forward(table: Array, tokens: Array):
    # Not `look_up` itself: then the gradient has no derivative in forward mode, which a second derivative takes.
    return _rows(table, tokens), (table, tokens)


def _backward(kept: tuple[Array, Array], gradient: Array):
    table, tokens = kept
    return _sum_by_token(table, tokens, gradient).astype(table.dtype), None


look_up.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class ShardedLookUp:
    """`look_up` with the rows of tokens split over the mesh axes `rows`, and the table's columns over `columns`.

    Every device looks up its columns for all tokens of its group, then the group exchanges columns for rows, so the
    activations are sent once. Without this function the compiler does so on some meshes only, and on others it copies
    the activations to all devices.
    """

    mesh: Mesh
    rows: tuple[str, ...] = ROW_AXES
    columns: str = "fsdp"

    def __call__(self, table: Array, tokens: Array) -> Array:
        """Return [B, S, D] with its rows split as those of `tokens`; if they do not divide, the compiler decides."""
        if self.mesh.size == 1 or tokens.shape[0] % math.prod(self.mesh.shape[axis] for axis in self.rows):
            return look_up(table, tokens)
        return _look_up_sharded(self, table, tokens)


def _on_devices(where: ShardedLookUp, split: bool, local, *arguments: Array) -> Array:
    """Run `local` on every device with its part of the table and of arrays split by rows.

    The result is split by rows for two arguments; for three it is a gradient, sharded as the table is.
    """
    table, rows = PartitionSpec(None, where.columns if split else None), PartitionSpec(where.rows)
    mapped = jax.shard_map(
        local,
        mesh=where.mesh,
        in_specs=(table,) + (rows,) * (len(arguments) - 1),
        out_specs=rows if len(arguments) == 2 else table,
        axis_names=set(where.rows),
        check_vma=False,
    )
    # Outside of jit, shard_map refuses axes that are left to the partitioner.
    return jax.jit(mapped)(*arguments)


def _splits(where: ShardedLookUp, table: Array) -> bool:
    return table.shape[1] % where.mesh.shape[where.columns] == 0


def _rows_sharded(where: ShardedLookUp, table: Array, tokens: Array) -> Array:
    split = _splits(where, table)

    def local(table: Array, tokens: Array) -> Array:
        if not split:
            return _rows(table, tokens)
        columns = _rows(table, jax.lax.all_gather(tokens, where.columns, tiled=True))
        return jax.lax.all_to_all(columns, where.columns, split_axis=0, concat_axis=2, tiled=True)

    return _on_devices(where, split, local, table, tokens)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _look_up_sharded(where: ShardedLookUp, table: Array, tokens: Array) -> Array:
    return _rows_sharded(where, table, tokens)


def _forward_sharded(where: ShardedLookUp, table: Array, tokens: Array):
    return _rows_sharded(where, table, tokens), (table, tokens)


def _backward_sharded(where: ShardedLookUp, kept: tuple[Array, Array], gradient: Array):
    table, tokens = kept
    split = _splits(where, table)
    others = tuple(axis for axis in where.rows if not split or axis != where.columns)

    def local(table: Array, tokens: Array, gradient: Array) -> Array:
        if split:
            gradient = jax.lax.all_to_all(gradient, where.columns, split_axis=2, concat_axis=0, tiled=True)
            tokens = jax.lax.all_gather(tokens, where.columns, tiled=True)
        return jax.lax.psum(_sum_by_token(table, tokens, gradient), others).astype(table.dtype)

    return _on_devices(where, split, local, table, tokens, gradient), None


_look_up_sharded.defvjp(_forward_sharded, _backward_sharded)
