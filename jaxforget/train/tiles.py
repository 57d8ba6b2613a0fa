"""The loss tile by tile over tokens: no array ever holds the whole token axis and the vocabulary.

A token's loss is the cross-entropy to its label, or the KL divergence from its target's distribution.

The gradient is taken on the way forward. A tile's logits are made once, turned into their own gradient in place, and
multiplied into the two results that the backward pass needs, d_hidden and d_head; so no head runs twice. Positions that
are not trained are sorted behind the others and their tiles never run: the loop's trip count is the data's.

Under a mesh every device loops over its own tokens inside `shard_map` with the heads gathered once; `d_head` is summed
over devices once, after the loop, not once a tile.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, PartitionSpec

from jaxforget.cpu import argmax, transposed
from jaxforget.train.targets import generic_logits, suppress
from jaxforget.train.types import soft_cap_gradient, soft_capped

Array = jax.Array
ROWS = ("data", "fsdp")


@dataclasses.dataclass(frozen=True)
class TileOptions:
    """Static options. tile: tokens a device handles at a time; soft_cap: the model's, on logits (`Forward.soft_cap`);
    alpha and soft: equation 1's strength, and whether its softmax rather than its argmax is the target; mesh: where
    rows are sharded."""

    mesh: Mesh
    tile: int
    soft_cap: float | None
    alpha: float = 5.0
    soft: bool = False


@struct.dataclass
class Teachers:
    """Everything a generic target needs but the logits themselves.

    base_hidden [B, S', D] on the translated tokens, with base_head [D, V]; reinforced_hidden [B, S, D] on the original,
    with reinforced_head [D, V]; position_map int32 [B, S]; table int32 [B, V] of `suppression_table`; retain fp32 [B],
    1 where a row keeps base's own distribution instead of a generic label. Either teacher may be None when labels are
    given (`labels`, int32 [B, S]).
    """

    base_hidden: Array | None = None
    base_head: Array | None = None
    reinforced_hidden: Array | None = None
    reinforced_head: Array | None = None
    position_map: Array | None = None
    table: Array | None = None
    retain: Array | None = None
    labels: Array | None = None


def _rows_spec(tree: Any, whole: tuple[str, ...]) -> Any:
    """PartitionSpecs of a struct: rows split, but for the fields named in `whole`."""
    specs = {
        field.name: None
        if getattr(tree, field.name) is None
        else PartitionSpec()
        if field.name in whole
        else PartitionSpec(ROWS)
        for field in dataclasses.fields(tree)
    }
    return type(tree)(**specs)


def _product(left: Array, right: Array) -> Array:
    """fp32 [T, V] of states and a head, or [D, V] of states and gradients, whatever the two are in."""
    return jnp.dot(left, right, preferred_element_type=jnp.float32)


def _logits(states: Array, head: Array, soft_cap: float | None) -> Array:
    """Return the model's logits, fp32 [T, V], of states [T, D] and a head [D, V]."""
    return soft_capped(_product(states, head), soft_cap)


def _take(array: Array, index: Array) -> Array:
    return jnp.take(array, index, axis=0, mode="clip")


def _generic(teachers: Teachers, index: Array, length: int, options: TileOptions) -> Array:
    """v_generic, fp32 [T, V], of the flat token indices `index` [T]; on retain rows v_base as it is."""
    row = index // length
    position = _take(teachers.position_map.reshape(-1), index)
    flat_base = teachers.base_hidden.reshape(-1, teachers.base_hidden.shape[-1])
    states = _take(flat_base, row * teachers.base_hidden.shape[1] + position)
    v_base = _logits(states, teachers.base_head, options.soft_cap)
    if teachers.reinforced_hidden is None:
        return v_base
    v_base = suppress(v_base, _take(teachers.table, row), position)
    flat_reinforced = teachers.reinforced_hidden.reshape(-1, teachers.reinforced_hidden.shape[-1])
    v_reinforced = _logits(_take(flat_reinforced, index), teachers.reinforced_head, options.soft_cap)
    alpha = options.alpha if teachers.retain is None else options.alpha * (1 - _take(teachers.retain, row)[:, None])
    return generic_logits(v_base, v_reinforced, alpha)


def _target(
    teachers: Teachers, index: Array, length: int, options: TileOptions
) -> tuple[Array | None, Array | None, Array | None]:
    """The target of a tile's tokens: (label int32 [T] or None, q fp32 [T, V] or None, whether q counts, bool [T])."""
    label = q = None
    retained = None if teachers.retain is None else _take(teachers.retain, index // length) > 0
    if teachers.labels is not None:
        label = _take(teachers.labels.reshape(-1), index)
    if teachers.base_hidden is not None:
        v_generic = _generic(teachers, index, length, options)
        if teachers.labels is None and not options.soft:
            label = argmax(v_generic)
        if options.soft or retained is not None:
            q = jax.nn.softmax(v_generic, axis=-1)
            retained = jnp.ones(index.shape, bool) if options.soft and teachers.labels is None else retained
    return label, q, retained


def _tile_gradient(student: Array, label: Array | None, q: Array | None, use_q: Array | None, coefficient: Array):
    """Loss [T] of student logits [T, V] against their target, and coefficient * d loss / d logits [T, V]."""
    # The exponents are made twice and never kept: an array of the tile's size less to write, read and hold.
    peak = jnp.max(student, axis=-1, keepdims=True)
    log_total = jnp.log(jnp.sum(jnp.exp(student - peak), axis=-1, keepdims=True)) + peak  # [T, 1]
    words = jax.lax.broadcasted_iota(jnp.int32, student.shape, 1)
    target = hard = None
    if label is not None:
        target = (words == label[:, None]).astype(jnp.float32)
        hard = log_total[:, 0] - jnp.sum(target * student, axis=-1)
    if q is None:
        loss = hard
    else:
        # KL(q || student): the entropy of q is no gradient, but it makes 0 mean "same as base".
        log_q = jnp.log(jnp.maximum(q, jnp.finfo(jnp.float32).tiny))
        kl = jnp.sum(q * (log_q - student), axis=-1) + log_total[:, 0]
        target = q if label is None else jnp.where(use_q[:, None], q, target)
        loss = kl if label is None else jnp.where(use_q, kl, hard)
    return loss, coefficient[:, None] * (jnp.exp(student - log_total) - target)


def _trained_first(trained: Array, tile: int) -> tuple[Array, Array]:
    """Flat indices, trained positions first (order kept), padded to whole tiles; how many tiles the trained fill."""
    order = jnp.argsort(jnp.logical_not(trained.reshape(-1)), stable=True).astype(jnp.int32)
    padded = jnp.pad(order, (0, -order.shape[0] % tile), constant_values=order.shape[0])
    count = jnp.sum(trained, dtype=jnp.int32)
    return padded, (count + tile - 1) // tile


def _local_loss(hidden: Array, head: Array, coefficients: Array, teachers: Teachers, *, options: TileOptions):
    """One device's part of `tiled_loss`: its rows, whole heads. Returns losses by kind, d_hidden, d_head (fp32 sum)."""
    rows, length, width = hidden.shape
    tile = min(options.tile, rows * length)
    flat, flat_coefficients = hidden.reshape(-1, width), coefficients.reshape(-1)
    padded, tiles = _trained_first(coefficients > 0, tile)

    def body(i, carry):
        losses, d_sorted, d_head = carry
        index = jax.lax.dynamic_slice_in_dim(padded, i * tile, tile)
        coefficient = jnp.where(index < flat.shape[0], _take(flat_coefficients, index), 0.0)
        # An untrained row of the last tile may hold anything, NaN included; `where` keeps it out, a product would not.
        # With its states and its target masked, its coefficient of 0 is enough for its gradient.
        counts = coefficient > 0
        h = jnp.where(counts[:, None], _take(flat, index), 0)
        label, q, use_q = _target(teachers, index, length, options)
        q = None if q is None else jnp.where(counts[:, None], q, 0)
        logits = _logits(h, head, options.soft_cap)
        loss, d_logits = _tile_gradient(logits, label, q, use_q, coefficient)
        d_logits = soft_cap_gradient(logits, d_logits, options.soft_cap)
        loss = jnp.where(counts, loss * coefficient, 0.0)
        kept = jnp.zeros_like(loss) if teachers.retain is None else _take(teachers.retain, index // length)
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
    # Rows are split by hand; the tensor axis stays with the partitioner, which splits the heads' words over it.
    return jax.shard_map(
        local, mesh=mesh, in_specs=in_specs, out_specs=out_specs, axis_names=set(ROWS), check_vma=False
    )


HEADS = ("base_head", "reinforced_head")


def _loss_and_gradients(hidden, head, coefficients, teachers, options):
    mesh = options.mesh
    scatter = head.shape[0] % mesh.shape["fsdp"] == 0

    def local(hidden, head, coefficients, teachers):
        losses, d_hidden, d_head = _local_loss(hidden, head, coefficients, teachers, options=options)
        if mesh.size > 1:  # one device would copy what it has
            losses = jax.lax.psum(losses, ROWS)
            # Each device needs only its part of the head's gradient: reduce-scatter, half an all-reduce's traffic.
            d_head = jax.lax.psum_scatter(d_head, "fsdp", tiled=True) if scatter else jax.lax.psum(d_head, "fsdp")
            d_head = jax.lax.psum(d_head, "data")
        d_head = d_head.astype(head.dtype)
        # Together, or the sum over devices waits for the optimiser: the layers' backward pass would run beside an fp32
        # array of the whole head's size.
        return jax.lax.optimization_barrier((losses, d_hidden, d_head))

    rows = PartitionSpec(ROWS)
    in_specs = (rows, PartitionSpec(), rows, _rows_spec(teachers, HEADS))
    out_specs = (PartitionSpec(), rows, PartitionSpec("fsdp") if scatter else PartitionSpec())
    return _sharded(local, mesh, in_specs, out_specs)(hidden, head, coefficients, teachers)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def tiled_loss(hidden: Array, head: Array, coefficients: Array, teachers: Teachers, options: TileOptions) -> Array:
    """Sum over tokens of coefficient * loss, fp32 [2]: forget (or plain) rows, and retain rows.

    In nats: cross-entropy to a label; KL, 0 where the student agrees, on retain rows and where targets are soft.

    Args:
      hidden: the student's final states [B, S, D].
      head: its output projection [D, V].
      coefficients: fp32 [B, S], each token's share of the loss; 0 where not trained.
      teachers: where the targets come from; never differentiated.
      options: static.

    Differentiable in hidden and head, for one weight on both sums (the gradient is fixed on the way forward).
    """
    return _loss_and_gradients(hidden, head, coefficients, teachers, options)[0]


def _tiled_loss_forward(hidden, head, coefficients, teachers, options):
    losses, d_hidden, d_head = _loss_and_gradients(hidden, head, coefficients, teachers, options)
    return losses, (d_hidden, d_head)


def _tiled_loss_backward(options, gradients, cotangent):
    d_hidden, d_head = gradients
    scale = cotangent[0]
    return d_hidden * scale.astype(d_hidden.dtype), d_head * scale.astype(d_head.dtype), None, None


tiled_loss.defvjp(_tiled_loss_forward, _tiled_loss_backward)


def tiled_labels(trained: Array, teachers: Teachers, options: TileOptions) -> Array:
    """Generic labels, int32 [B, S], -1 where `trained` (bool [B, S]) is not set: what `tiled_loss` trains towards."""

    def local(trained, teachers):
        rows, length = trained.shape
        tile = min(options.tile, rows * length)
        padded, tiles = _trained_first(trained, tile)

        def body(i, labels):
            index = jax.lax.dynamic_slice_in_dim(padded, i * tile, tile)
            label = argmax(_generic(teachers, index, length, options))
            return labels.at[index].set(label, mode="drop")

        labels = jax.lax.fori_loop(0, tiles, body, jnp.full(rows * length, -1, jnp.int32)).reshape(rows, length)
        return jnp.where(trained, labels, -1)

    in_specs = (PartitionSpec(ROWS), _rows_spec(teachers, HEADS))
    return _sharded(local, options.mesh, in_specs, PartitionSpec(ROWS))(trained, teachers)


def tiled_log_probabilities(
    hidden: Array, head: Array, labels: Array, mesh: Mesh, tile: int, soft_cap: float | None
) -> Array:
    """Log-probability, fp32 [B, S], of `labels` (int32 [B, S]; 0 where -1) under the states `hidden` [B, S, D]."""

    def local(hidden, head, labels):
        rows, length, width = hidden.shape
        size = min(tile, rows * length)
        flat, flat_labels = hidden.reshape(-1, width), labels.reshape(-1)
        padded, tiles = _trained_first(labels >= 0, size)

        def body(i, out):
            index = jax.lax.dynamic_slice_in_dim(padded, i * size, size)
            logits = _logits(_take(flat, index), head, soft_cap)
            label = _take(flat_labels, index)
            picked = jnp.take_along_axis(logits, jnp.maximum(label, 0)[:, None], axis=-1)[:, 0]
            return out.at[index].set(picked - jax.nn.logsumexp(logits, axis=-1), mode="drop")

        out = jax.lax.fori_loop(0, tiles, body, jnp.zeros(rows * length, jnp.float32)).reshape(rows, length)
        return jnp.where(labels >= 0, out, 0.0)

    rows = PartitionSpec(ROWS)
    return _sharded(local, mesh, (rows, PartitionSpec(), rows), rows)(hidden, head, labels)
