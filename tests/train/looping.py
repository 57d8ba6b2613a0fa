"""A training of a second for tests of the loop: state, compiled step, batches and a whole stage."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxforget.sharding import put_batch
from jaxforget.train.checkpoint import Checkpoints
from jaxforget.train.loop import LoopOptions, run_loop
from jaxforget.train.metrics import MetricsLog
from jaxforget.train.optimizer import linear_schedule, make_optimizer
from jaxforget.train.state import init_state, state_shardings
from jaxforget.train.types import TrainState
from tests.train.tiny import mesh_of

STAGE, STEPS, ROWS = "forget", 8, 8
SCHEDULE = linear_schedule(1e-2, 0, STEPS)
OPTIMIZER = make_optimizer(
    SCHEDULE, b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.0, clip_norm=None, moment_dtype="float32"
)
PARAMS = {"w": np.linspace(-1, 1, 16, dtype=np.float32), "b": np.zeros(3, np.float32)}


def spec(leaf: np.ndarray, mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    """Return a sharding that splits the axes that the mesh divides."""
    axis = "fsdp" if leaf.shape[0] % mesh.shape["fsdp"] == 0 else None
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axis))


@functools.cache
def shardings(devices: int) -> TrainState:
    """Return the shardings of the state on a mesh of `devices`."""
    mesh = mesh_of(fsdp=devices)
    return state_shardings(PARAMS, jax.tree.map(lambda leaf: spec(leaf, mesh), PARAMS), OPTIMIZER, mesh)


def fresh(devices: int = 1) -> TrainState:
    """Return a state before its first step."""
    placed = jax.device_put(jax.tree.map(np.copy, PARAMS), shardings(devices).params)
    return init_state(placed, OPTIMIZER, shardings(devices))


def abstract(devices: int = 1) -> TrainState:
    """Return the shapes and shardings of the state."""
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
        jax.eval_shape(lambda: fresh(devices)),
        shardings(devices),
    )


@functools.cache
def compiled(devices: int = 1) -> Callable:
    """Return the compiled step `(state, batch) -> (state, metrics)` of a regression; it donates its state."""

    def step(state: TrainState, batch: dict[str, jax.Array]) -> tuple[TrainState, dict[str, jax.Array]]:
        def loss(params):
            return jnp.mean((jnp.tanh(batch["x"] @ params["w"]) + params["b"].sum() - batch["y"]) ** 2)

        value, gradient = jax.value_and_grad(loss)(state.params)
        updates, opt_state = OPTIMIZER.update(gradient, state.opt_state, state.params)
        after = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        return after, {"loss": value, "tokens": jnp.int32(96), "grad_norm": optax.tree.norm(gradient)}

    whole = shardings(devices).step
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings(devices), whole))


def batches(start: int, hook: Callable[[int], Any] = lambda step: None, devices: int = 1) -> Iterator[Any]:
    """Yield the batches from `start` on, each a function of its number; `hook(step)` may replace the data."""
    step = start
    while True:
        rng = np.random.default_rng(step)
        x, y = rng.standard_normal((ROWS, 16), np.float32), rng.standard_normal(ROWS, np.float32)
        step += 1
        found = hook(step)
        share = ROWS // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        yield put_batch(
            {"x": x[mine], "y": y[mine] if found is None else np.full_like(y, found)}, mesh_of(fsdp=devices)
        )


@contextlib.contextmanager
def opened(folder: Path, *, fingerprint: str = "inputs", keep: int = 2, select: str = "last") -> Iterator[Checkpoints]:
    """Yield the checkpoints of the stage in `folder`; they are closed in any case."""
    checkpoints = Checkpoints(folder / "checkpoints", fingerprint, keep=keep, select=select)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def fit(
    folder: Path,
    *,
    steps: int = STEPS,
    checkpoint_every: int = 2,
    evaluate_every: int = 0,
    devices: int = 1,
    hook: Callable[[int], Any] = lambda step: None,
    step_function: Callable | None = None,
    evaluate: Callable[[int, Any], dict[str, float]] | None = None,
    log_type: type[MetricsLog] = MetricsLog,
    **settings: Any,
) -> TrainState:
    """Train like a stage, from the latest checkpoint in `folder` to the last step."""
    with opened(folder, **settings) as checkpoints:
        first = checkpoints.latest() or 0
        state = checkpoints.restore(first, abstract(devices)) if first else fresh(devices)
        log = log_type(folder, STAGE, first_step=first, total_steps=steps, active=jax.process_index() == 0)
        try:
            return run_loop(
                state,
                compiled(devices) if step_function is None else step_function,
                batches(first, hook, devices),
                LoopOptions(STAGE, steps, checkpoint_every, evaluate_every),
                checkpoints=checkpoints,
                log=log,
                learning_rate=SCHEDULE,
                evaluate=evaluate,
            )
        finally:
            log.close()
