"""The compiled steps: `reinforce_step`, `forget_step` and `label_step`.

A forget step is one pure function and one jit, `(state, frozen, batch) -> (state, metrics)`: base on the translated
tokens, reinforced on the original, student on the original; suppression, equation 1, labels, loss, gradient and update.
Gradient accumulation is a scan inside it. The batch is a dict (METHOD.md sections 2 to 4):

    tokens        int32 [B, S]   the original block, right-padded
    translated    int32 [B, S']  the same with anchors replaced
    position_map  int32 [B, S]   index in `translated` whose logits predict what follows; -1 = not trained
    suppress_ids  int32 [B, K]   words suppressed; -1 = padding
    suppress_from int32 [B, K]   the translated index after which they are
    weights       fp32  [B, S]   0 = padding
    retain        fp32  [B]      1 = a row whose target is base's own distribution on the original text
    labels        int32 [B, S]   cached generic labels; -1 = not trained (only where targets are cached)
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.train.precision import Split, compute_params, joined, split
from jaxforget.train.targets import suppression_table
from jaxforget.train.tiles import Teachers, TileOptions, tiled_labels, tiled_loss
from jaxforget.train.types import Array, Batch, Forward, Frozen, Params, TrainState


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Static options of a step.

    tile: tokens per device whose logits exist at a time. accumulate: microbatches in a step; divides the batch.
    alpha, soft: equation 1. retain_weight: of the retain rows' mean loss beside the forget rows'; 0 = there are none.
    cached: forget rows take `batch["labels"]`, so the reinforced model is not run.
    """

    tile: int
    accumulate: int = 1
    alpha: float = 5.0
    soft: bool = False
    retain_weight: float = 0.0
    cached: bool = False


def init_state(params: Params, optimizer: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """A fresh state that takes `params` over: they are donated, so give it no tree that anything else still needs.

    Where `shardings` are of split weights (`state_shardings(..., halves=True)`), fp32 `params` are split.
    """
    fresh = partial(_fresh, optimizer=optimizer, halves=isinstance(shardings.params, Split))
    return jax.jit(fresh, donate_argnums=0, out_shardings=shardings)(params)


def _fresh(params: Params, *, optimizer: optax.GradientTransformation, halves: bool) -> TrainState:
    opt_state = optimizer.init(params)
    return TrainState(jnp.zeros((), jnp.int32), split(params) if halves else params, opt_state)


def abstract_state(shapes: Params, optimizer: optax.GradientTransformation, shardings: TrainState) -> TrainState:
    """The state of `init_state` as `ShapeDtypeStruct`s on their shardings: to restore into, or to compile for."""
    fresh = partial(_fresh, optimizer=optimizer, halves=isinstance(shardings.params, Split))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        jax.eval_shape(fresh, shapes),
        shardings,
    )


def state_shardings(
    shapes: Params, params: Params, optimizer: optax.GradientTransformation, mesh: Mesh, *, halves: bool = False
) -> TrainState:
    """Shardings of a `TrainState`: moments lie as their parameters do, counters everywhere.

    Args:
      shapes: the student's parameters as arrays or `ShapeDtypeStruct`s.
      params: their `NamedSharding`s, same tree.
      halves: the state holds fp32 weights as `Split`, for a forward pass in bf16.
    """
    whole = NamedSharding(mesh, PartitionSpec())
    opt_state = optax.tree_utils.tree_map_params(
        optimizer,
        lambda _, sharding: sharding,
        jax.eval_shape(optimizer.init, shapes),
        params,
        transform_non_params=lambda _: whole,
    )
    return TrainState(step=whole, params=Split(params, params) if halves else params, opt_state=opt_state)


def _microbatches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; microbatch i is rows i, i + count, ..., so no row moves between devices."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def _accumulated(gradient_of, params: Params, batch: Batch, count: int):
    """Sums (losses, gradients) over microbatches by a scan; one microbatch needs neither scan nor second buffer."""
    if count == 1:
        return gradient_of(params, batch)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

    def add(total, microbatch):
        # The barrier keeps sums over devices inside the loop body: the TPU compiler fails on moving them out of it.
        losses, gradients = jax.lax.optimization_barrier(gradient_of(params, microbatch))
        return (total[0] + losses, jax.tree.map(lambda t, g: t + g, total[1], gradients)), None

    return jax.lax.scan(add, (jnp.zeros(2, jnp.float32), zeros), _microbatches(batch, count))[0]


def _updated(state: TrainState, gradients: Params, optimizer: optax.GradientTransformation) -> tuple[TrainState, Array]:
    with jax.named_scope("optimizer"):
        gradients = jax.tree.map(lambda g: g.astype(jnp.float32), gradients)
        norm = optax.tree.norm(gradients)
        params = joined(state.params)
        updates, opt_state = optimizer.update(gradients, state.opt_state, params)
        params = optax.apply_updates(params, updates)
        params = split(params) if isinstance(state.params, Split) else params
    return TrainState(step=state.step + 1, params=params, opt_state=opt_state), norm


def _compiled(step, shardings: TrainState, mesh: Mesh):
    """One jit: the state donated and its output shardings pinned, so that step two finds what step one compiled for."""
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, NamedSharding(mesh, PartitionSpec())))


def _until_last(trained: Array) -> Array:
    """bool [B, S]: whether this position or a later one is trained. What lies behind, no trained one sees."""
    return jnp.flip(jnp.cumsum(jnp.flip(trained, 1), 1), 1) > 0


def _without_padding(batch: Batch, trained: Array) -> Batch:
    """`batch` with word 0 behind each row's last trained position (bool [B, S]), whatever stood there.

    Causality keeps padding out of every sum, but by a product with 0, which is NaN where padding is NaN: the embedding
    of an id beyond the vocabulary, say.
    """
    used = jnp.max(jnp.where(trained, batch["position_map"], -1), axis=1, keepdims=True)
    translated = jnp.where(jnp.arange(batch["translated"].shape[1]) <= used, batch["translated"], 0)
    return {**batch, "tokens": jnp.where(_until_last(trained), batch["tokens"], 0), "translated": translated}


def make_reinforce_step(
    forward: Forward, optimizer: optax.GradientTransformation, options: StepOptions, mesh: Mesh, shardings: TrainState
):
    """Plain next-token training (METHOD.md section 6): `(state, batch, base=None) -> (state, metrics)`.

    base: frozen weights, where what trains stands over them. The batch needs `tokens`, `weights`.
    metrics: loss (mean over predicted tokens, fp32), tokens (int32, exact), grad_norm.
    """
    tiles = TileOptions(mesh=mesh, tile=options.tile, soft_cap=forward.soft_cap)

    def gradient_of(base: Params, params: Params, batch: Batch):
        def loss_of(params: Params):
            with jax.named_scope("student"):
                student = forward.apply_delta(base, params)
                hidden, head = forward.hidden(student, batch["tokens"]), forward.head(student)
            with jax.named_scope("tiles"):
                losses = tiled_loss(hidden, head, batch["coefficients"], Teachers(labels=batch["labels"]), tiles)
            return jnp.sum(losses), losses

        (_, losses), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        return losses, gradients

    def step(state: TrainState, batch: Batch, base: Params = None) -> tuple[TrainState, dict[str, Array]]:
        # Position i predicts token i + 1; the last has nothing to predict.
        labels = jnp.pad(batch["tokens"][:, 1:], ((0, 0), (0, 1)))
        weights = batch["weights"] * jnp.pad(batch["weights"][:, 1:], ((0, 0), (0, 1)))
        total = jnp.maximum(jnp.sum(weights), 1e-9)
        tokens = jnp.where(_until_last(weights > 0), batch["tokens"], 0)
        prepared = {"tokens": tokens, "labels": labels, "coefficients": weights / total}
        losses, gradients = _accumulated(
            lambda params, batch: gradient_of(base, params, batch),
            compute_params(state.params),
            prepared,
            options.accumulate,
        )
        state, norm = _updated(state, gradients, optimizer)
        return state, {"loss": losses[0], "tokens": jnp.sum(weights > 0, dtype=jnp.int32), "grad_norm": norm}

    return _compiled(step, shardings, mesh)


def _teachers(forward: Forward, frozen: Frozen, batch: Batch, cached: bool, retain: bool) -> Teachers:
    """Runs the teachers, one after the other, outside whatever is differentiated."""
    teachers = Teachers(retain=batch["retain"] if retain else None, labels=batch["labels"] if cached else None)
    if cached and not retain:
        return teachers
    with jax.named_scope("base"):
        base_hidden, base_head = forward.hidden(frozen.base, batch["translated"]), forward.head(frozen.base)
    teachers = teachers.replace(base_hidden=base_hidden, base_head=base_head, position_map=batch["position_map"])
    if cached:
        return teachers
    with jax.named_scope("reinforced"):
        reinforced = forward.apply_delta(frozen.base, frozen.reinforced)
        hidden, head = forward.hidden(reinforced, batch["tokens"]), forward.head(reinforced)
    # A retain row is base's own text: nothing was translated there, so nothing is suppressed.
    ids = jnp.where(batch["retain"][:, None] > 0, -1, batch["suppress_ids"])
    table = suppression_table(ids, batch["suppress_from"], head.shape[1])
    return teachers.replace(reinforced_hidden=hidden, reinforced_head=head, table=table)


def make_forget_step(
    forward: Forward, optimizer: optax.GradientTransformation, options: StepOptions, mesh: Mesh, shardings: TrainState
):
    """The step of the method: `(state, frozen, batch) -> (state, metrics)`.

    metrics: loss (forget rows' mean cross-entropy to their generic labels, or KL from soft ones), retain_loss (retain
    rows' mean KL from base), both in nats; tokens and retain_tokens (int32, exact), grad_norm; fp32 where not said.
    """
    tiles = TileOptions(mesh=mesh, tile=options.tile, soft_cap=forward.soft_cap, alpha=options.alpha, soft=options.soft)
    retain = options.retain_weight > 0

    def gradient_of(frozen: Frozen, params: Params, batch: Batch):
        teachers = jax.lax.stop_gradient(_teachers(forward, frozen, batch, options.cached, retain))

        def loss_of(params: Params):
            with jax.named_scope("student"):
                student = forward.apply_delta(frozen.base, params)
                hidden, head = forward.hidden(student, batch["tokens"]), forward.head(student)
            with jax.named_scope("tiles"):
                losses = tiled_loss(hidden, head, batch["coefficients"], teachers, tiles)
            return jnp.sum(losses), losses

        (_, losses), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        return losses, gradients

    def step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        weights = jnp.where(batch["position_map"] >= 0, batch["weights"], 0.0)
        kept = (batch["retain"] > 0)[:, None]
        forget_weights, retain_weights = jnp.where(kept, 0.0, weights), jnp.where(kept, weights, 0.0)
        # Means over the whole batch, so that a microbatch's loss counts by its tokens and padding not at all.
        coefficients = forget_weights / jnp.maximum(jnp.sum(forget_weights), 1e-9)
        if retain:
            coefficients += options.retain_weight * retain_weights / jnp.maximum(jnp.sum(retain_weights), 1e-9)
        batch = {**_without_padding(batch, weights > 0), "coefficients": coefficients}
        losses, gradients = _accumulated(
            lambda params, batch: gradient_of(frozen, params, batch),
            compute_params(state.params),
            batch,
            options.accumulate,
        )
        state, norm = _updated(state, gradients, optimizer)
        metrics = {"loss": losses[0], "tokens": jnp.sum(forget_weights > 0, dtype=jnp.int32), "grad_norm": norm}
        if retain:
            metrics["retain_loss"] = losses[1] / options.retain_weight
            metrics["retain_tokens"] = jnp.sum(retain_weights > 0, dtype=jnp.int32)
        return state, metrics

    return _compiled(step, shardings, mesh)


def make_label_step(forward: Forward, options: StepOptions, mesh: Mesh):
    """Generic labels alone: `(frozen, batch) -> int32 [B, S]`, -1 where not trained, by the forget step's functions."""
    tiles = TileOptions(mesh=mesh, tile=options.tile, soft_cap=forward.soft_cap, alpha=options.alpha)

    def labels_of(frozen: Frozen, batch: Batch) -> Array:
        trained = (batch["position_map"] >= 0) & (batch["weights"] > 0)
        teachers = _teachers(forward, frozen, _without_padding(batch, trained), cached=False, retain=False)
        return tiled_labels(trained, teachers, tiles)

    def step(frozen: Frozen, batch: Batch) -> Array:
        if options.accumulate == 1:
            return labels_of(frozen, batch)
        microbatches = _microbatches(batch, options.accumulate)
        labels = jax.lax.map(lambda microbatch: labels_of(frozen, microbatch), microbatches)  # [count, B / count, S]
        return jnp.swapaxes(labels, 0, 1).reshape(-1, labels.shape[-1])

    return jax.jit(step, out_shardings=NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
