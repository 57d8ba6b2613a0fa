"""The compiled steps: `make_step`, one for every objective, and `make_label_step`.

A step is one pure function and one jit, `(state, frozen, batch) -> (state, metrics)`: the passes of the frozen models,
the student's, targets, loss, gradient and update. Gradient accumulation is a scan inside it. The batch is a dict of
which an objective reads what it needs (METHOD.md sections 2 to 4):

    tokens        int32 [B, S]   the original block, right-padded
    weights       fp32  [B, S]   1 = a used token, 0 = padding
    answer        fp32  [B, S]   optional: 1 = a token whose prediction counts; without it all do
    retain        fp32  [B]      optional: 1 = a row of the retained text
    translated    int32 [B, S']  the block with its anchors replaced
    position_map  int32 [B, S]   index in `translated` whose logits predict what follows; -1 = not trained
    suppress_ids  int32 [B, K]   suppressed tokens; -1 = padding
    suppress_from int32 [B, K]   the translated index after which each is suppressed
    translations  int32 [B, N, S']  several translations, with position_maps, moved_from, moved_to and moved_since as
                                 `jaxforget.corpus.translations.Translations` describes them
    labels        int32 [B, S]   cached generic labels; -1 = not trained
    alternate     int32 [B, S]   alternative answers; alternate_weights and alternate_answer as for tokens
    unrelated_*                  tokens, weights and answer of rows of unrelated text (`Wrappers.ilu`)
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxforget.sharding import BATCH
from jaxforget.train.objectives.next_token import NextToken
from jaxforget.train.objectives.objective import Objective, shifted
from jaxforget.train.objectives.retain import Retain
from jaxforget.train.precision import compute_params
from jaxforget.train.state import update_state
from jaxforget.train.tiles import Tile, TileInputs, TileOptions, tiled_labels, tiled_log_probabilities, tiled_loss
from jaxforget.train.types import Array, Batch, Forward, Frozen, Params, TrainState
from jaxforget.train.wrappers import Wrappers, invariance_penalty, sharpness_aware, take_unrelated

TINY = 1e-9  # keeps a mean over nothing finite


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """Static options of a step that change no result beyond rounding.

    Attributes:
      tile: tokens for which a device holds logits at a time.
      accumulate: number of microbatches of a step; it divides the batch.
    """

    tile: int
    accumulate: int = 1


@dataclasses.dataclass(frozen=True)
class RowLoss:
    """The loss of a tile that may hold forget rows and retain rows: each token has the loss of its row's kind."""

    objective: Objective
    retain: Retain | None

    def __call__(self, logits: Array, tile: Tile) -> tuple[Array, Array]:
        loss, gradient = self.objective.tile_loss(logits, tile)
        if self.retain is None:
            return loss, gradient
        kept = tile.of_row("retain") > 0
        retain_loss, retain_gradient = self.retain.tile_loss(logits, tile)
        return jnp.where(kept, retain_loss, loss), jnp.where(kept[:, None], retain_gradient, gradient)


def make_step(
    forward: Forward,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    options: StepOptions,
    mesh: Mesh,
    shardings: TrainState,
    retain: Retain | None = None,
    wrappers: Wrappers | None = None,
):
    """Return the compiled training step of an objective, `(state, frozen, batch) -> (state, metrics)`.

    Args:
      forward: the model's functions.
      optimizer: applied to the gradient of the forget loss plus the weighted retain loss.
      objective: the loss of the forget rows.
      options: static.
      mesh: where the arrays are sharded.
      shardings: of the state, `state_shardings`; the state is donated and its output shardings are pinned.
      retain: the loss of the retain rows; None if they train nothing.
      wrappers: of the gradient; None for none.

    Metrics: loss (of the objective, fp32), tokens (counted tokens, int32, exact), grad_norm (before clipping); with
    `retain` also retain_tokens and retain_loss, the mean over them (nats; for kind "states" a squared distance); with a
    constrained objective also its multiplier; with `Wrappers.ilu` also invariance_penalty.
    """
    loss = make_loss(forward, objective, options, mesh, retain, wrappers)
    plain_loss = make_loss(forward, NextToken(), options, mesh)  # of unrelated text

    def step(state: TrainState, frozen: Frozen, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        params = compute_params(state.params)
        batch, unrelated = take_unrelated(batch)
        losses, gradients, counts = loss(params, frozen, batch, state.dual)
        dual = objective.next_multiplier(state.dual, losses[1] / retain.weight) if objective.constrained else None
        metrics = {"loss": losses[0], "tokens": counts["forget"]}
        if wrappers is not None and wrappers.ilu:
            gradient_of = lambda params: plain_loss(params, frozen, unrelated)[1]  # noqa: E731
            penalty, more = invariance_penalty(gradient_of, params, wrappers.ilu)
            gradients = jax.tree.map(jnp.add, gradients, objective.trained(more))
            metrics["invariance_penalty"] = penalty
        state, norm = update_state(state, gradients, optimizer)
        state = state.replace(dual=dual)
        metrics["grad_norm"] = norm
        if retain is not None:
            metrics |= {"retain_loss": losses[1] / retain.weight, "retain_tokens": counts["retain"]}
        if objective.constrained:
            metrics["multiplier"] = dual
        return state, metrics

    # The pinned output shardings are those of the input: the second step reuses the first one's compilation.
    replicated = NamedSharding(mesh, PartitionSpec())
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated))


def make_loss(
    forward: Forward,
    objective: Objective,
    options: StepOptions,
    mesh: Mesh,
    retain: Retain | None = None,
    wrappers: Wrappers | None = None,
):
    """Return `(params, frozen, batch, dual) -> (losses, gradients, counts)`: what a step computes before its update.

    losses: fp32 [2], for logging: the objective's, and the retain loss times its weight.
    gradients: the gradient of losses.sum() with respect to `params`, with three exceptions: a constrained objective has
      the multiplier in place of the weight, SAM takes the forget gradient elsewhere, and parameters that do not train
      have zeros. The dtype is that of `params`, or fp32 where microbatches are accumulated.
    counts: counted tokens, int32, "forget" and "retain".
    dual: fp32 [], the multiplier of a constrained objective; None for every other.
    """
    tiles = TileOptions(mesh=mesh, tile=options.tile, soft_cap=forward.soft_cap)
    tile_loss = RowLoss(objective, retain)

    def gradient_of(frozen: Frozen, dual: Array | None, params: Params, batch: Batch):
        if objective.on_states and (retain is None or retain.kind == "states"):
            return _states_gradient(forward, frozen, params, batch, objective, retain)
        inputs = jax.lax.stop_gradient(_tile_inputs(forward, frozen, batch, objective, retain))

        def loss_of(params: Params):
            with jax.named_scope("student"):
                student = forward.apply_delta(frozen.base, params)
                hidden, head = forward.hidden(student, batch["tokens"]), forward.head(student)
            coefficients, found = batch["coefficients"], {}
            if objective.per_row:
                found[0], coefficients = _weighed_rows(hidden, head, inputs, batch, objective, tiles)
            if objective.constrained:
                share = batch["retain_share"]
                coefficients += dual * share
                # The multiplier may be 0, and a token whose coefficient is 0 has no loss: it is measured apart.
                found[1] = retain.weight * -jnp.sum(_log_probabilities(hidden, head, share, batch, tiles) * share)
            if objective.on_states:
                # The forget rows have their loss elsewhere; the tiles hold the retain rows' alone.
                coefficients = jnp.where(batch["retain"][:, None] > 0, coefficients, 0.0)
            with jax.named_scope("tiles"):
                total, losses = tiled_loss(hidden, head, coefficients, inputs, tile_loss, tiles)
            if objective.on_states:
                found[0], _ = _states_losses(forward, frozen, student, batch, objective, None)
                total += found[0]
            for place, value in found.items():
                losses = losses.at[place].set(value)
            return total, losses

        (_, losses), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        return losses, objective.trained(gradients)

    def loss(params: Params, frozen: Frozen, batch: Batch, dual: Array | None = None):
        batch, counts = _prepared(batch, objective, retain, mesh)

        def whole_batch(params: Params, batch: Batch):
            return _accumulated(partial(gradient_of, frozen, dual), params, batch, options.accumulate)

        if wrappers is not None and wrappers.sam:
            kept = retain is not None
            return *sharpness_aware(whole_batch, params, batch, wrappers.sam, retains=kept), counts
        return *whole_batch(params, batch), counts

    return loss


def make_label_step(forward: Forward, objective: Objective, options: StepOptions, mesh: Mesh):
    """Return `(frozen, batch) -> int32 [B, S]`: generic labels alone, -1 where a position does not train.

    They are computed by the functions that the training step computes them by, so they are equal bit for bit.
    """
    objective = objective.uncached()
    tiles = TileOptions(mesh=mesh, tile=options.tile, soft_cap=forward.soft_cap)

    def labels_of(frozen: Frozen, batch: Batch) -> Array:
        trained = objective.counted(batch) > 0
        inputs = _tile_inputs(forward, frozen, _without_padding(batch, trained), objective, None)
        return tiled_labels(trained, inputs, objective.generic_label, tiles)

    def step(frozen: Frozen, batch: Batch) -> Array:
        if options.accumulate == 1:
            return labels_of(frozen, batch)
        microbatches = _microbatches(batch, options.accumulate)
        labels = jax.lax.map(lambda microbatch: labels_of(frozen, microbatch), microbatches)  # [count, B / count, S]
        return jnp.swapaxes(labels, 0, 1).reshape(-1, labels.shape[-1])

    return jax.jit(step, out_shardings=NamedSharding(mesh, BATCH))


def _prepared(batch: Batch, objective: Objective, retain: Retain | None, mesh: Mesh) -> tuple[Batch, dict[str, Array]]:
    """Return the batch with each token's share of the loss, and the numbers of counted tokens, int32 [].

    The means are taken over the whole batch, so that a microbatch's loss counts by its tokens and padding not at all.
    """
    if objective.alternates:
        batch = _with_alternates(batch, mesh)
    kept = (batch["retain"] > 0)[:, None] if "retain" in batch else None
    forget = objective.counted(batch)
    forget = forget if kept is None else jnp.where(kept, 0.0, forget)
    counts = {"forget": jnp.sum(forget > 0, dtype=jnp.int32)}
    trained = forget > 0
    batch = {**batch, "next": shifted(batch["tokens"])}
    if objective.per_row:
        rows = jnp.any(forget > 0, axis=1).astype(jnp.float32)
        rows = rows.at[rows.shape[0] // 2 :].set(0.0) if objective.alternates else rows
        batch |= {"row_scale": objective.weight * rows / jnp.maximum(jnp.sum(rows), 1.0), "counted": forget}
        coefficients = jnp.zeros_like(forget)
    else:
        coefficients = forget / jnp.maximum(jnp.sum(forget), TINY)
        coefficients = coefficients if objective.weight == 1 else objective.weight * coefficients
    if retain is not None:
        weights = jnp.where(kept, retain.counted(batch), 0.0)
        if objective.constrained:
            batch["retain_share"] = weights / jnp.maximum(jnp.sum(weights), TINY)
        else:
            coefficients += retain.weight * weights / jnp.maximum(jnp.sum(weights), TINY)
        counts["retain"] = jnp.sum(weights > 0, dtype=jnp.int32)
        trained |= weights > 0
    return {**_without_padding(batch, trained), "coefficients": coefficients}, counts


def _with_alternates(batch: Batch, mesh: Mesh) -> Batch:
    """Return the batch with its alternative answers as rows behind the others: [2 B, ...]."""
    rows = NamedSharding(mesh, BATCH)

    def joined(first: Array, second: Array) -> Array:
        return jax.lax.with_sharding_constraint(jnp.concatenate([first, second]), rows)

    names = {"tokens": "alternate", "weights": "alternate_weights", "answer": "alternate_answer"}
    found = {name: joined(batch[name], batch[other]) for name, other in names.items() if name in batch}
    if "retain" in batch:
        found["retain"] = joined(batch["retain"], jnp.zeros_like(batch["retain"]))
    return found


def _weighed_rows(
    hidden: Array, head: Array, inputs: TileInputs, batch: Batch, objective: Objective, tiles: TileOptions
) -> tuple[Array, Array]:
    """Return the loss of an objective by rows, and each token's coefficient fp32 [B, S] in it.

    The loss depends on a row's tokens only through their summed log-probability, so the gradient of the loss with
    respect to that sum is the (negative) coefficient of the row's cross-entropies.
    """
    counted = batch["counted"]

    def summed(hidden: Array, head: Array) -> Array:
        return jnp.sum(_log_probabilities(hidden, head, counted, batch, tiles) * counted, axis=1)

    with jax.named_scope("rows"):
        logp = summed(hidden, head)
        base = summed(inputs.rows["base_hidden"], inputs.heads["base_head"]) if objective.uses_base else None

        def loss_of(logp: Array) -> Array:
            losses = objective.row_loss(logp, base, jnp.sum(counted, axis=1))
            scale = batch["row_scale"][: losses.shape[0]]
            return jnp.sum(jnp.where(scale > 0, scale * losses, 0.0))

        loss, slope = jax.value_and_grad(loss_of)(logp)
    return loss, batch["coefficients"] - slope[:, None] * counted


def _log_probabilities(hidden: Array, head: Array, counted: Array, batch: Batch, tiles: TileOptions) -> Array:
    """Return log p(next token), fp32 [B, S], without gradient; 0 where a token is not counted."""
    labels = jnp.where(counted > 0, batch["next"], -1)
    hidden, head = jax.lax.stop_gradient(hidden), jax.lax.stop_gradient(head)
    return tiled_log_probabilities(hidden, head, labels, tiles.mesh, tiles.tile, tiles.soft_cap)


def _states_losses(
    forward: Forward, frozen: Frozen, student: Params, batch: Batch, objective: Objective, retain: Retain | None
) -> tuple[Array, Array]:
    """Return the summed forget and retain losses of an objective on hidden states, fp32 [] each."""
    with jax.named_scope("student"):
        states = forward.states(student, batch["tokens"], objective.layer).astype(jnp.float32)  # [B, S, D]
    kept = batch["retain"][:, None] > 0 if "retain" in batch else jnp.zeros((1, 1), bool)
    coefficients = batch["coefficients"]

    def total(distance: Array, chosen: Array) -> Array:
        each = jnp.mean(jnp.square(distance), axis=-1)
        return jnp.sum(jnp.where(chosen & (coefficients != 0), coefficients * each, 0.0))

    forget = total(states - objective.target(states.shape[-1]), ~kept)
    if retain is None:
        return forget, jnp.zeros(())
    with jax.named_scope("base"):
        base = jax.lax.stop_gradient(forward.states(frozen.base, batch["tokens"], objective.layer)).astype(jnp.float32)
    return forget, total(states - base, kept)


def _states_gradient(
    forward: Forward, frozen: Frozen, params: Params, batch: Batch, objective: Objective, retain: Retain | None
):
    """Return (losses, gradients) of an objective on hidden states whose retain rows need no logits."""

    def loss_of(params: Params):
        student = forward.apply_delta(frozen.base, params)
        losses = jnp.stack(_states_losses(forward, frozen, student, batch, objective, retain))
        return jnp.sum(losses), losses

    (_, losses), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    return losses, objective.trained(gradients)


def _tile_inputs(
    forward: Forward, frozen: Frozen, batch: Batch, objective: Objective, retain: Retain | None
) -> TileInputs:
    """Run the frozen models, one after the other, outside whatever is differentiated."""
    rows: dict[str, Array] = {}
    heads: dict[str, Array] = {}
    if retain is not None:
        rows["retain"] = batch["retain"]
        if "next" in batch:
            rows["next"] = batch["next"]
    if objective.uses_base or (retain is not None and retain.uses_base):
        with jax.named_scope("base"):
            rows["base_hidden"] = objective.base_hidden(lambda tokens: forward.hidden(frozen.base, tokens), batch)
            heads["base_head"] = forward.head(frozen.base)
        if objective.base_input == "translated":
            rows["position_map"] = batch["position_map"]
    if objective.uses_reinforced:
        with jax.named_scope("reinforced"):
            reinforced = forward.apply_delta(frozen.base, frozen.reinforced)
            rows["reinforced_hidden"] = forward.hidden(reinforced, batch["tokens"])
            heads["reinforced_head"] = forward.head(reinforced)
    vocab_size = next((head.shape[1] for head in heads.values()), 0)
    return TileInputs(rows={**rows, **objective.tile_rows(batch, vocab_size)}, heads=heads)


def _until_last(trained: Array) -> Array:
    """Return bool [B, S], True up to the last trained position; no trained position sees what stands behind it."""
    return jnp.flip(jnp.cumsum(jnp.flip(trained, 1), 1), 1) > 0


def _without_padding(batch: Batch, trained: Array) -> Batch:
    """Return `batch` with token 0 behind each row's last trained position (bool [B, S]), whatever stood there.

    Causality keeps padding out of every sum, but only by a product with 0, which is NaN where padding is NaN: where an
    id beyond the vocabulary has no embedding, for example.
    """
    cleared = {**batch, "tokens": jnp.where(_until_last(trained), batch["tokens"], 0)}
    if "translated" in batch:
        used = jnp.max(jnp.where(trained, batch["position_map"], -1), axis=1, keepdims=True)
        cleared["translated"] = jnp.where(jnp.arange(batch["translated"].shape[1]) <= used, batch["translated"], 0)
    if "translations" in batch:
        used = jnp.max(jnp.where(trained[:, None], batch["position_maps"], -1), axis=2, keepdims=True)
        cleared["translations"] = jnp.where(
            jnp.arange(batch["translations"].shape[2]) <= used, batch["translations"], 0
        )
    return cleared


def _microbatches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]; microbatch i is rows i, i + count, ..., so no row moves between devices."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1), batch)


def _accumulated(gradient_of, params: Params, batch: Batch, count: int):
    """Sum (losses, gradients) over microbatches by a scan; one microbatch needs neither scan nor second buffer."""
    if count == 1:
        return gradient_of(params, batch)
    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)

    def add(total, microbatch):
        # The barrier keeps sums over devices inside the loop body: the TPU compiler fails on moving them out of it.
        losses, gradients = jax.lax.optimization_barrier(gradient_of(params, microbatch))
        return (total[0] + losses, jax.tree.map(lambda t, g: t + g, total[1], gradients)), None

    return jax.lax.scan(add, (jnp.zeros(2, jnp.float32), zeros), _microbatches(batch, count))[0]
