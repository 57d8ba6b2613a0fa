"""Rows of the embedding table by token, their gradient summed in fp32, on one device or a table split over many.

A frequent word occurs thousands of times in a batch. Its row's gradient is a sum of as many small numbers: in bf16,
which keeps 8 bits, each addition would round to 1/256 of what has already gathered.

Letters in shapes: B rows, S positions, V vocabulary, D hidden.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

Array = jax.Array


def _sum_by_token(like: Array, tokens: Array, gradient: Array) -> Array:
    """fp32 [V, D]: `gradient` [B, S, D] added up by its tokens. Ids beyond the table add to nothing."""
    return jnp.zeros(like.shape, jnp.float32).at[tokens].add(gradient.astype(jnp.float32))


@jax.custom_vjp
def look_up(table: Array, tokens: Array) -> Array:
    """[B, S, D] of table [V, D] and tokens int [B, S]; NaN where an id is beyond the table."""
    return jnp.take(table, tokens, axis=0)


def _forward(table: Array, tokens: Array):
    return look_up(table, tokens), (table, tokens)


def _backward(kept: tuple[Array, Array], gradient: Array):
    table, tokens = kept
    return _sum_by_token(table, tokens, gradient).astype(table.dtype), None


look_up.defvjp(_forward, _backward)


@dataclasses.dataclass(frozen=True)
class ShardedLookUp:
    """`look_up` where tokens' rows are split over the mesh axes `rows`, and the table's columns over `columns`.

    Every device looks its columns up for all tokens of its group, then the group exchanges columns for rows: what
    moves is the activations, once. The compiler left alone does so on some meshes and on others copies them whole.
    """

    mesh: Mesh
    rows: tuple[str, ...] = ("data", "fsdp")
    columns: str = "fsdp"

    def __call__(self, table: Array, tokens: Array) -> Array:
        """[B, S, D], its rows split as those of `tokens` are; where they do not divide, as the compiler likes."""
        if self.mesh.size == 1 or tokens.shape[0] % math.prod(self.mesh.shape[axis] for axis in self.rows):
            return look_up(table, tokens)
        return _look_up_sharded(self, table, tokens)


def _on_devices(where: ShardedLookUp, split: bool, local, *arguments: Array) -> Array:
    """`local` on every device: the table first, then arrays split by rows. A gradient lies as the table does."""
    table, rows = PartitionSpec(None, where.columns if split else None), PartitionSpec(where.rows)
    mapped = jax.shard_map(
        local,
        mesh=where.mesh,
        in_specs=(table,) + (rows,) * (len(arguments) - 1),
        out_specs=rows if len(arguments) == 2 else table,
        axis_names=set(where.rows),
        check_vma=False,
    )
    # Outside of any jit, axes that are left to the partitioner would be refused.
    return jax.jit(mapped)(*arguments)


def _splits(where: ShardedLookUp, table: Array) -> bool:
    return table.shape[1] % where.mesh.shape[where.columns] == 0


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _look_up_sharded(where: ShardedLookUp, table: Array, tokens: Array) -> Array:
    split = _splits(where, table)

    def local(table: Array, tokens: Array) -> Array:
        if not split:
            return look_up(table, tokens)
        columns = look_up(table, jax.lax.all_gather(tokens, where.columns, tiled=True))
        return jax.lax.all_to_all(columns, where.columns, split_axis=0, concat_axis=2, tiled=True)

    return _on_devices(where, split, local, table, tokens)


def _forward_sharded(where: ShardedLookUp, table: Array, tokens: Array):
    return _look_up_sharded(where, table, tokens), (table, tokens)


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
