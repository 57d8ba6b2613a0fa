"""The compiled steps beside the method on whole logits: one device or eight, accumulated or not, recomputed or not."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxforget.models.config import ModelConfig
from jaxforget.sharding import put_batch
from jaxforget.train.objectives import METHODS, NextToken, Objective, Retain
from jaxforget.train.optimizer import make_optimizer
from jaxforget.train.state import init_state, state_shardings
from jaxforget.train.step import StepOptions, make_label_step, make_step
from jaxforget.train.types import Forward, Frozen, TrainState
from tests.train import tiny
from tests.train.tiny import (
    ALPHA,
    LENGTH,
    PLAIN,
    RETAIN_WEIGHT,
    ROWS,
    TIED,
    TILE,
    VOCABULARY,
    Naive,
    adamw,
    assert_same_bits,
    largest_difference,
    llama_forward,
    llama_params,
    make_batch,
    mesh_of,
    near,
    put,
    shardings_of,
    slow_generic,
    softmax,
    toy_forward,
    toy_params,
    trained,
    whole_logits,
)

RATE = 1e-3
# A large eps: near 0, Adam turns rounding of a gradient into a step of full length.
ADAMW = {"b1": 0.9, "b2": 0.98, "eps": 1e-4, "weight_decay": 0.1}


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to compile the forget step."""

    mesh: tuple[int, int, int] = (1, 1, 1)
    accumulate: int = 1
    remat: str = "none"
    soft: bool = False
    config: ModelConfig = PLAIN


CASES = {
    "one device, accumulated": Case(accumulate=2),
    "data x fsdp, recomputed": Case(mesh=(2, 4, 1), remat="full"),
    "fsdp x tensor, soft": Case(mesh=(1, 4, 2), soft=True),
    "fsdp, accumulated, tied, soft": Case(mesh=(1, 8, 1), accumulate=2, remat="dots", soft=True, config=TIED),
}
BATCHES = (make_batch(0), make_batch(1))


@functools.cache
def models(config: ModelConfig) -> tuple[Any, Any, Any]:
    """Weights of student, base and reinforced."""
    base = llama_params(config, 1)
    return near(base, 3), base, near(base, 2)


@functools.cache
def naive() -> Naive:
    return Naive()


@dataclasses.dataclass
class Trainer:
    """A compiled forget step with everything that it is called with."""

    mesh: jax.sharding.Mesh
    forward: Forward
    objective: Objective
    options: StepOptions
    params: tuple[Any, Any, Any]
    retain: Retain | None = None

    def __post_init__(self) -> None:
        # trace(0) keeps the last gradient in the state, where a test can read it.
        self.optimizer = optax.chain(
            optax.trace(decay=0.0),
            make_optimizer(optax.constant_schedule(RATE), clip_norm=None, moment_dtype="float32", **ADAMW),
        )
        student, base, reinforced = self.params
        self.shardings = state_shardings(student, shardings_of(student, self.mesh), self.optimizer, self.mesh)
        self.frozen = Frozen(base=put(base, self.mesh), reinforced=put(reinforced, self.mesh))
        self.step = make_step(
            self.forward, self.optimizer, self.objective, self.options, self.mesh, self.shardings, self.retain
        )

    def state(self) -> TrainState:
        return init_state(put(self.params[0], self.mesh), self.optimizer, self.shardings)

    def put(self, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
        return put_batch(batch, self.mesh)

    def run(self, batches, state: TrainState | None = None) -> tuple[TrainState, list[dict[str, Any]]]:
        """One step a batch, from a fresh state."""
        state = self.state() if state is None else state
        metrics = []
        for batch in batches:
            state, found = self.step(state, self.frozen, self.put(batch))
            metrics.append(jax.device_get(found))
        return state, metrics


RETAIN = Retain(RETAIN_WEIGHT)


def objective_of(soft: bool, **settings: Any) -> Objective:
    return METHODS["whp_soft" if soft else "whp"](alpha=ALPHA, **settings)


@functools.cache
def trainer(name: str) -> Trainer:
    case = CASES[name]
    mesh = mesh_of(*case.mesh)
    options = StepOptions(tile=TILE, accumulate=case.accumulate)
    forward = llama_forward(case.config, mesh, case.remat)
    return Trainer(mesh, forward, objective_of(case.soft), options, models(case.config), RETAIN)


@functools.cache
def ours(name: str) -> tuple[TrainState, list[dict[str, Any]]]:
    """State and metrics after one step a batch."""
    return trainer(name).run(BATCHES)


@functools.cache
def theirs(config: ModelConfig, soft: bool) -> dict[str, Any]:
    """The same by the slow way."""
    student, base, reinforced = models(config)
    update = adamw(RATE, *ADAMW.values())
    metrics = []
    for batch in BATCHES:
        target = naive().targets(base, reinforced, batch)["soft" if soft else "hard"]
        (forget, retain), gradient = naive().step(student, target, batch)
        student = update(student, gradient)
        metrics.append({"loss": forget, "retain_loss": retain, "grad_norm": optax.tree.norm(gradient)})
    return {"params": student, "gradient": gradient, "metrics": metrics}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_method_on_whole_logits(name):
    case = CASES[name]
    expected = theirs(case.config, case.soft)
    state, metrics = ours(name)
    for found, wanted, batch in zip(metrics, expected["metrics"], BATCHES, strict=True):
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-5)
        real, kept = trained(batch), batch["retain"][:, None] > 0
        assert found["tokens"] == (real & ~kept).sum()
        assert found["retain_tokens"] == (real & kept).sum()
        assert found["loss"] > 0.1
        assert found["retain_loss"] > 0.1
    gradient = state.opt_state[0].trace
    assert largest_difference(gradient, expected["gradient"]) < 1e-5
    # Both steps moved every weight by up to RATE, so this bound tells a right update from a wrong one.
    assert largest_difference(state.params, expected["params"]) < 1e-5
    assert largest_difference(state.params, models(case.config)[0]) > RATE
    assert int(state.step) == 2


def test_equation_1_and_suppression_change_labels(monkeypatch):
    # Else the tests above and below would say little about either.
    _, base, reinforced = models(PLAIN)
    batch = BATCHES[0]
    labels = naive().targets(base, reinforced, batch)["labels"]
    bare = {**batch, "suppress_ids": np.full_like(batch["suppress_ids"], -1)}
    assert (naive().targets(base, reinforced, bare)["labels"] != labels).sum() >= 5
    monkeypatch.setattr(tiny, "ALPHA", 0.0)
    assert (naive().targets(base, reinforced, batch)["labels"] != labels).sum() >= 5


def test_eight_devices_equal_one():
    alone, spread = (ours(name) for name in ("one device, accumulated", "data x fsdp, recomputed"))
    assert largest_difference(alone[0].params, spread[0].params) < 1e-5
    assert largest_difference(alone[1], spread[1]) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_two_steps_compile_once(name):
    ours(name)
    assert trainer(name).step._cache_size() == 1


def test_state_is_donated_and_teachers_are_not():
    one = trainer("one device, accumulated")
    before = one.state()
    after, _ = one.step(before, one.frozen, one.put(BATCHES[0]))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(one.frozen))
    # Gradient kept by trace, two moments; no state for a teacher.
    numbers = sum(leaf.size for leaf in jax.tree.leaves(after.params))
    assert 0 <= sum(leaf.size for leaf in jax.tree.leaves(after.opt_state)) - 3 * numbers < 5


@pytest.mark.parametrize("name", ["data x fsdp, recomputed", "fsdp x tensor, soft"])
def test_state_lies_as_its_parameters_do(name):
    state, _ = ours(name)
    for moments in (state.opt_state[0].trace, state.opt_state[1][0].mu, state.opt_state[1][0].nu):
        for moment, weight in zip(jax.tree.leaves(moments), jax.tree.leaves(state.params), strict=True):
            assert moment.sharding == weight.sharding
    kernel = state.params["layers"]["gate"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 <= kernel.size, "the weights are not split"


@pytest.mark.parametrize("name", ["one device, accumulated", "data x fsdp, recomputed"])
def test_no_buffer_holds_tokens_and_vocabulary(name):
    one, case = trainer(name), CASES[name]
    program = one.step.lower(one.state(), one.frozen, one.put(BATCHES[0])).compile().as_text()
    shards = case.mesh[0] * case.mesh[1]
    tokens = ROWS * LENGTH // shards // case.accumulate
    assert tokens > max(TILE, PLAIN.hidden_size)
    assert not whole_logits(program, tokens), "an array of a device's tokens x vocabulary"
    assert whole_logits(program, TILE), "not even a tile's logits were found: the search sees nothing"


def test_the_search_finds_whole_logits():
    theirs(PLAIN, False)
    student, batch = models(PLAIN)[0], BATCHES[0]
    target = np.zeros((ROWS, LENGTH, VOCABULARY), np.float32)
    arguments = (student, batch["tokens"], target, batch["weights"], batch["retain"])
    assert whole_logits(naive().gradient.lower(*arguments).compile().as_text(), ROWS * LENGTH)


def test_padding_and_untrained_positions_weigh_nothing():
    one = trainer("one device, accumulated")
    batch = BATCHES[0]
    real = trained(batch)
    rubbish = {name: value.copy() for name, value in batch.items()}
    # No embedding has these ids: they become NaN.
    behind = np.cumsum(real[:, ::-1], axis=1)[:, ::-1] == 0
    rubbish["tokens"][behind] = 10**6
    used = np.where(real, batch["position_map"], -1).max(axis=1, keepdims=True)
    rubbish["translated"][np.arange(batch["translated"].shape[1]) > used] = 10**6
    rubbish["weights"][batch["position_map"] < 0] = 77
    rubbish["position_map"][rubbish["weights"] == 0] = 3
    rubbish["suppress_from"][batch["suppress_ids"] < 0] = 0
    assert sum((rubbish[name] != batch[name]).any() for name in batch) == 5
    assert_same_bits(one.run([rubbish]), one.run([batch]))


def test_a_retain_row_suppresses_nothing():
    one = trainer("one device, accumulated")
    other = {name: value.copy() for name, value in BATCHES[0].items()}
    other["suppress_ids"][other["retain"] > 0] = -1
    assert_same_bits(one.run([other]), one.run(BATCHES[:1]))


def label_step(one: Trainer):
    return make_label_step(one.forward, one.objective, one.options, one.mesh)


def cached(one: Trainer) -> tuple[Trainer, list[dict[str, np.ndarray]]]:
    """The same step on labels that the label step made, and its batches."""
    step = label_step(one)
    batches = [{**batch, "labels": np.asarray(step(one.frozen, one.put(batch)))} for batch in BATCHES]
    # Only the retain rows still need a teacher.
    objective = dataclasses.replace(one.objective, cached=True)
    other = Trainer(one.mesh, one.forward, objective, one.options, one.params, one.retain)
    other.frozen = Frozen(base=other.frozen.base, reinforced=None)
    return other, batches


@functools.cache
def toy_trainer(mesh: tuple[int, int, int] = (1, 1, 1), retain: Retain | None = None, **options: Any) -> Trainer:
    base = toy_params(1)
    params = (near(base, 3), base, near(base, 2))
    options = StepOptions(tile=TILE, **options)
    return Trainer(mesh_of(*mesh), toy_forward(), objective_of(False), options, params, retain)


def test_label_step():
    one = trainer("one device, accumulated")
    labels = label_step(one)
    for batch in BATCHES:
        found = np.asarray(labels(one.frozen, one.put(batch)))
        wanted = naive().targets(*models(PLAIN)[1:], batch)["labels"]
        forget = batch["retain"] == 0
        assert found.dtype == np.int32
        assert (found[forget] == wanted[forget]).all()
        assert ((found >= 0) == trained(batch)).all()


def test_cached_labels_train_as_in_step_labels_do():
    one = toy_trainer(accumulate=2, retain=RETAIN)
    other, batches = cached(one)
    assert_same_bits(other.run(batches), one.run(BATCHES))


def test_cached_labels_on_eight_devices():
    one = toy_trainer((2, 4, 1), accumulate=2)
    other, batches = cached(one)
    other.frozen = Frozen(base=None, reinforced=None)
    alone = toy_trainer(accumulate=2, retain=RETAIN)
    labels = label_step(alone)
    for batch in batches:
        assert_same_bits(batch["labels"], labels(alone.frozen, alone.put(batch)))
    # One wrong label would move weights by RATE; two programs may add over devices in two orders.
    assert largest_difference(other.run(batches)[0].params, one.run(BATCHES)[0].params) < 1e-6


def test_without_retain_term_retain_rows_train_nothing():
    one = toy_trainer((2, 4, 1), accumulate=2)
    other = {name: value.copy() for name, value in BATCHES[0].items()}
    other["tokens"][other["retain"] > 0] = 7
    state, (metrics,) = one.run(BATCHES[:1])
    assert_same_bits(state, one.run([other])[0])
    assert set(metrics) == {"loss", "tokens", "grad_norm"}


def test_counts_and_sums_are_exact_in_bfloat16():
    batch = make_batch(7, rows=61)
    base = toy_params(1)
    forward = toy_forward(jnp.bfloat16)
    one = Trainer(mesh_of(), forward, objective_of(True), StepOptions(tile=TILE), (near(base, 3), base, base))
    state, (metrics,) = one.run([batch])
    forget = trained(batch) & (batch["retain"][:, None] == 0)
    # bfloat16 counts 257 as 256, and above 512 only every fourth number.
    assert forget.sum() > 512
    assert forget.sum() % 4, forget.sum()
    assert metrics["tokens"] == forget.sum()
    assert metrics["tokens"].dtype == np.int32
    assert metrics["loss"].dtype == np.float32

    def logits(params, tokens):
        hidden = np.asarray(forward.hidden(params, tokens).astype(jnp.float32))
        return hidden @ np.asarray(forward.head(params).astype(jnp.float32))

    v_base, v_reinforced = logits(base, batch["translated"]), logits(base, batch["tokens"])
    logp = np.log(softmax(logits(near(base, 3), batch["tokens"])))
    total = 0.0
    for row, at in np.argwhere(forget):
        q = softmax(slow_generic(v_base, v_reinforced, batch, row, at)[1])
        total += float(np.sum(q * (np.log(np.maximum(q, 1e-300)) - logp[row, at])))
    np.testing.assert_allclose(metrics["loss"], total / forget.sum(), rtol=1e-4)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params)), "the weights that train lost bits"


@pytest.mark.parametrize(("mesh", "accumulate"), [((1, 1, 1), 1), ((2, 4, 1), 2)], ids=str)
def test_reinforce_step_is_plain_next_token_training(mesh, accumulate):
    mesh = mesh_of(*mesh)
    params, batch = toy_params(4), make_batch(2)
    optimizer = optax.chain(optax.trace(decay=0.0), optax.sgd(0.1))
    shardings = state_shardings(params, shardings_of(params, mesh), optimizer, mesh)
    options = StepOptions(tile=TILE, accumulate=accumulate)
    step = make_step(toy_forward(), optimizer, NextToken(), options, mesh, shardings)
    rubbish = {"tokens": batch["tokens"].copy(), "weights": batch["weights"]}
    rubbish["tokens"][batch["weights"] == 0] = 10**6
    put_ = put_batch(rubbish, mesh)
    state, metrics = step(init_state(put(params, mesh), optimizer, shardings), Frozen(), put_)

    def loss(params):
        forward = toy_forward()
        logp = jax.nn.log_softmax(forward.hidden(params, batch["tokens"]) @ forward.head(params))
        picked = jnp.take_along_axis(logp[:, :-1], batch["tokens"][:, 1:, None], axis=-1)[..., 0]
        both = batch["weights"][:, :-1] * batch["weights"][:, 1:]
        return -(picked * both).sum() / both.sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], optax.tree.norm(gradient), rtol=1e-5)
    assert largest_difference(state.opt_state[0].trace, gradient) < 1e-6
    assert metrics["tokens"] == (batch["weights"][:, :-1] * batch["weights"][:, 1:]).sum()
    state, _ = step(state, Frozen(), put_)
    assert step._cache_size() == 1
    program = step.lower(state, Frozen(), put_).compile().as_text()
    assert not whole_logits(program, ROWS * LENGTH // mesh.size // accumulate)


def test_a_batch_of_nothing_changes_nothing():
    one = toy_trainer(accumulate=2, retain=RETAIN)
    empty = {**BATCHES[0], "weights": np.zeros_like(BATCHES[0]["weights"])}
    state, (metrics,) = one.run([empty])
    assert {name: float(value) for name, value in metrics.items()} == dict.fromkeys(metrics, 0)
    # No gradient: what is left is weight decay.
    assert_same_bits(state.opt_state[0].trace, jax.tree.map(np.zeros_like, one.params[0]))
