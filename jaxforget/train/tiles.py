"""The loss of a batch, computed tile by tile over tokens: no array ever holds all tokens and the vocabulary.

The gradient is computed in the forward pass. A tile's logits are computed once, turned into their own gradient in
place, and multiplied into the two results that the backward pass needs, d_hidden and d_head; so the backward pass needs
no output projection. Only where a coefficient depends on log-probabilities (losses by row, a constrained retain loss)
does the projection run once more before, without gradient (`tiled_log_probabilities`). Positions that do not train
are sorted behind the others and their tiles never run: the data decide how many tiles the loop runs.

Under a mesh every device loops over its own tokens inside `shard_map`, with the output projections gathered once.
d_head is summed over devices once, after the loop, not once for every tile.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from jaxforget.cpu import transposed
from jaxforget.output_projection import logits_of, soft_cap_gradient
from jaxforget.sharding import BATCH, ROW_AXES

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class TileOptions:
    """Static options.

    Attributes:
      mesh: the mesh over which rows are sharded.
      tile: tokens for which a device holds logits at a time.
      soft_cap: the model's bound on logits (`Forward.soft_cap`).
    """

    mesh: Mesh
    tile: int
    soft_cap: float | None


@struct.dataclass
class TileInputs:
    """Arrays that a tile's loss reads beside the student's logits. They are never differentiated.

    Attributes:
      rows: by name, arrays whose first axis is the batch's rows: hidden states of frozen models [B, S', D], labels
        int32 [B, S], flags [B].
      heads: by name, output projections [D, V] of frozen models; every device holds them whole.
    """

    rows: dict[str, Array] = struct.field(default_factory=dict)
    heads: dict[str, Array] = struct.field(default_factory=dict)

    def __contains__(self, name: str) -> bool:
        return name in self.rows or name in self.heads


@dataclasses.dataclass(frozen=True)
class Tile:
    """T tokens of one device, as the loss of an objective sees them.

    Attributes:
      index: int32 [T], flat positions in this device's [rows, S]. Entries equal to rows * S are padding, whose loss is
        discarded; their `row` is out of range.
      length: S.
      inputs: the device's part of `TileInputs`.
      soft_cap: the model's bound on logits.
    """

    index: Array
    length: int
    inputs: TileInputs
    soft_cap: float | None

    @property
    def row(self) -> Array:
        """int32 [T], the row of each token on this device."""
        return self.index // self.length

    def of_token(self, name: str) -> Array:
        """Return the tile's part of `rows[name]` [B, S]: [T]."""
        return _take(self.inputs.rows[name].reshape(-1), self.index)

    def of_row(self, name: str) -> Array:
        """Return `rows[name]` [B, ...] of each token's row: [T, ...]."""
        return _take(self.inputs.rows[name], self.row)

    def logits(self, model: str, position: Array | None = None) -> Array:
        """Return the logits of a frozen model ("base" or "reinforced"), fp32 [T, V].

        Args:
          model: its hidden states are `rows["MODEL_hidden"]`, its output projection `heads["MODEL_head"]`.
          position: int32 [T], positions in its own rows; None where they are the tokens' own.
        """
        hidden = self.inputs.rows[f"{model}_hidden"]
        flat = hidden.reshape(-1, hidden.shape[-1])
        index = self.index if position is None else self.row * hidden.shape[1] + position
        return logits_of(_take(flat, index), self.inputs.heads[f"{model}_head"], self.soft_cap)


# (student's logits fp32 [T, V], tile) -> (loss fp32 [T], its gradient with respect to the logits fp32 [T, V]); static
# and hashable.
TileLoss = Callable[[Array, Tile], tuple[Array, Array]]


def _specs(inputs: TileInputs) -> TileInputs:
    return TileInputs(
        rows=jax.tree.map(lambda _: BATCH, inputs.rows),
        heads=jax.tree.map(lambda _: PartitionSpec(), inputs.heads),
    )


def _product(left: Array, right: Array) -> Array:
    """Return the product of [T, D] states and a [D, V] head, or of [D, T] and [T, V], accumulated in fp32."""
    return jnp.dot(left, right, preferred_element_type=jnp.float32)


def _take(array: Array, index: Array) -> Array:
    return jnp.take(array, index, axis=0, mode="clip")


def _trained_first(trained: Array, tile: int) -> tuple[Array, Array]:
    """Return flat indices in whole tiles, trained positions first (order kept); and how many tiles these fill."""
    order = jnp.argsort(jnp.logical_not(trained.reshape(-1)), stable=True).astype(jnp.int32)
    padded = jnp.pad(order, (0, -order.shape[0] % tile), constant_values=order.shape[0])
    count = jnp.sum(trained, dtype=jnp.int32)
    return padded, (count + tile - 1) // tile


def _local_loss(
    hidden: Array, head: Array, coefficients: Array, inputs: TileInputs, *, loss_of: TileLoss, options: TileOptions
):
    """One device's part of `tiled_loss`: its rows, whole heads. Returns the two sums, d_hidden and d_head (fp32)."""
    rows, length, width = hidden.shape
    tile = min(options.tile, rows * length)
    flat, flat_coefficients = hidden.reshape(-1, width), coefficients.reshape(-1)
    padded, tiles = _trained_first(coefficients != 0, tile)

    def body(i, carry):
        losses, d_sorted, d_head = carry
        index = jax.lax.dynamic_slice_in_dim(padded, i * tile, tile)
        coefficient = jnp.where(index < flat.shape[0], _take(flat_coefficients, index), 0.0)
        # An untrained token of the last tile may hold anything, NaN included: `where` excludes it, a product would not.
        counts = coefficient != 0
        h = jnp.where(counts[:, None], _take(flat, index), 0)
        place = Tile(index, length, inputs, options.soft_cap)
        logits = logits_of(h, head, options.soft_cap)
        loss, gradient = loss_of(logits, place)
        d_logits = jnp.where(counts[:, None], coefficient[:, None] * gradient, 0.0)
        d_logits = soft_cap_gradient(logits, d_logits, options.soft_cap)
        loss = jnp.where(counts, loss * coefficient, 0.0)
        kept = place.of_row("retain") if "retain" in inputs else jnp.zeros_like(loss)
        losses = losses + jnp.stack([jnp.sum(loss * (1 - kept)), jnp.sum(loss * kept)])
        d_logits = d_logits.astype(head.dtype)
        d_h = jax.lax.dot_general(d_logits, head, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)
        d_sorted = jax.lax.dynamic_update_slice_in_dim(d_sorted, d_h.astype(hidden.dtype), i * tile, 0)
        d_head = d_head + _product(transposed(h), d_logits)
        return losses, d_sorted, d_head

    start = (
        jnp.zeros(2, jnp.float32),
        jnp.zeros((padded.shape[0], width), hidden.dtype),
        jnp.zeros(head.shape, jnp.float32),
    )
    losses, d_sorted, d_head = jax.lax.fori_loop(0, tiles, body, start)
    order = padded[: flat.shape[0]]
    inverse = jnp.zeros_like(order).at[order].set(jnp.arange(order.shape[0], dtype=jnp.int32), unique_indices=True)
    return losses, _take(d_sorted, inverse).reshape(hidden.shape), d_head


def _sharded(local, mesh: Mesh, in_specs: Any, out_specs: Any):
    # Rows are split by hand; the tensor axis stays with the partitioner, which splits the heads' vocabulary over it.
    return jax.shard_map(
        local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=set(ROW_AXES), check_vma=False
    )


def _loss_and_gradients(hidden, head, coefficients, inputs, loss_of, options):
    mesh = options.mesh
    scatter = head.shape[0] % mesh.shape["fsdp"] == 0

    def local(hidden, head, coefficients, inputs):
        losses, d_hidden, d_head = _local_loss(hidden, head, coefficients, inputs, loss_of=loss_of, options=options)
        if mesh.size > 1:  # a single device would only copy its own arrays
            losses = jax.lax.psum(losses, ROW_AXES)
            # Each device needs only its part of the head's gradient: reduce-scatter, half an all-reduce's traffic.
            d_head = jax.lax.psum_scatter(d_head, "fsdp", tiled=True) if scatter else jax.lax.psum(d_head, "fsdp")
            d_head = jax.lax.psum(d_head, "data")
        d_head = d_head.astype(head.dtype)
        # Together, or the sum over devices waits for the optimiser: the layers' backward pass would run beside an fp32
        # array of the whole head's size.
        return jax.lax.optimization_barrier((losses, d_hidden, d_head))

    rows = BATCH
    in_specs = (rows, PartitionSpec(), rows, _specs(inputs))
    out_specs = (PartitionSpec(), rows, PartitionSpec("fsdp") if scatter else PartitionSpec())
    return _sharded(local, mesh, in_specs, out_specs)(hidden, head, coefficients, inputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def tiled_loss(
    hidden: Array, head: Array, coefficients: Array, inputs: TileInputs, loss_of: TileLoss, options: TileOptions
) -> tuple[Array, Array]:
    """Return the sum over tokens of coefficient * loss, fp32 [], and its two parts for the log, fp32 [2].

    The parts are the sums over forget (or plain) rows and over retain rows. Only the first result is differentiable, in
    hidden and head: its gradient is computed in the forward pass. The parts have no gradient.

    Args:
      hidden: the student's final hidden states [B, S, D].
      head: its output projection [D, V].
      coefficients: fp32 [B, S], each token's share of the loss, of either sign; 0 where a token does not train.
      inputs: what `loss_of` reads beside the student's logits, and "retain" fp32 [B], 1 for the second part.
      loss_of: the loss of a tile.
      options: static.
    """
    return _tiled_loss_forward(hidden, head, coefficients, inputs, loss_of, options)[0]


def _tiled_loss_forward(hidden, head, coefficients, inputs, loss_of, options):
    losses, d_hidden, d_head = _loss_and_gradients(hidden, head, coefficients, inputs, loss_of, options)
    return (jnp.sum(losses), losses), (d_hidden, d_head)


def _tiled_loss_backward(loss_of, options, gradients, cotangent):
    d_hidden, d_head = gradients
    scale, _ = cotangent
    return d_hidden * scale.astype(d_hidden.dtype), d_head * scale.astype(d_head.dtype), None, None


tiled_loss.defvjp(_tiled_loss_forward, _tiled_loss_backward)


def tiled_labels(trained: Array, inputs: TileInputs, label_of: Callable[[Tile], Array], options: TileOptions) -> Array:
    """Return the labels, int32 [B, S], that `label_of` gives each tile; -1 where `trained` (bool [B, S]) is False."""

    def local(trained, inputs):
        rows, length = trained.shape
        tile = min(options.tile, rows * length)
        padded, tiles = _trained_first(trained, tile)

        def body(i, labels):
            index = jax.lax.dynamic_slice_in_dim(padded, i * tile, tile)
            return labels.at[index].set(label_of(Tile(index, length, inputs, options.soft_cap)), mode="drop")

        labels = jax.lax.fori_loop(0, tiles, body, jnp.full(rows * length, -1, jnp.int32)).reshape(rows, length)
        return jnp.where(trained, labels, -1)

    in_specs = (BATCH, _specs(inputs))
    return _sharded(local, options.mesh, in_specs, BATCH)(trained, inputs)


def tiled_log_probabilities(
    hidden: Array, head: Array, labels: Array, mesh: Mesh, tile: int, soft_cap: float | None
) -> Array:
    """Return log p(labels), fp32 [B, S], from states `hidden` [B, S, D]; `labels` int32 [B, S], 0 where one is -1."""

    def local(hidden, head, labels):
        rows, length, width = hidden.shape
        size = min(tile, rows * length)
        flat, flat_labels = hidden.reshape(-1, width), labels.reshape(-1)
        padded, tiles = _trained_first(labels >= 0, size)

        def body(i, out):
            index = jax.lax.dynamic_slice_in_dim(padded, i * size, size)
            logits = logits_of(_take(flat, index), head, soft_cap)
            label = _take(flat_labels, index)
            picked = jnp.take_along_axis(logits, jnp.maximum(label, 0)[:, None], axis=-1)[:, 0]
            return out.at[index].set(picked - jax.nn.logsumexp(logits, axis=-1), mode="drop")

        out = jax.lax.fori_loop(0, tiles, body, jnp.zeros(rows * length, jnp.float32)).reshape(rows, length)
        return jnp.where(labels >= 0, out, 0.0)

    rows = BATCH
    return _sharded(local, mesh, (rows, PartitionSpec(), rows), rows)(hidden, head, labels)
