"""Our side of bench_step.py: the step that `jaxforget forget` runs, built by the stages' own functions."""

import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.lm.forward import configured_module, make_forward, param_shapes, param_shardings
from jaxforget.models.config import ModelConfig
from jaxforget.models.load import load_params
from jaxforget.sharding import make_mesh, put_batch, row_shards
from jaxforget.stages.build import (
    make_adamw,
    make_objective,
    make_training_step,
    passes,
    step_options,
    student_shardings,
)
from jaxforget.train.state import init_state
from jaxforget.train.step import make_label_step
from jaxforget.train.types import Frozen

STEPS = 1000  # of the schedule: the learning rate hardly falls during the measurement


class JaxSide:
    """The forget step with teachers in it, or with cached labels.

    Args:
      base, reinforced: folders, or None for random weights made on the device.
      config: a config.json.
      batch: numpy arrays of `jaxforget.train.step`'s batch.
      words: a run's options, as key=value.
      cached: labels are made once, beforehand, and no teacher runs.
    """

    def __init__(
        self,
        base: Path | None,
        reinforced: Path | None,
        config: dict[str, Any],
        batch: dict[str, np.ndarray],
        *,
        words: list[str],
        cached: bool,
    ):
        run = config_from({}, words)
        llama = ModelConfig.from_hf(config)
        mesh = make_mesh(run.mesh.data, run.mesh.fsdp, run.mesh.tensor)
        check_blocks(len(batch["tokens"]), row_shards(mesh), run.forget.accumulate)
        where = param_shardings(llama, mesh)

        def model(folder: Path | None, dtype: str, seed: int) -> Any:
            if folder is not None:
                return load_params(folder, llama, dtype=dtype, shardings=where)
            return _random(param_shapes(llama, jnp.dtype(dtype)), where, seed)

        forward = make_forward(configured_module(run.model, llama, mesh))
        _, optimizer = make_adamw(run.forget, STEPS)
        self.batch = put_batch(batch, mesh)
        self.frozen = Frozen(model(base, run.model.dtype, 0), model(reinforced, run.model.dtype, 1))
        if cached:
            label = make_label_step(forward, make_objective(run), step_options(run, "forget"), mesh)
            self.batch["labels"] = jax.block_until_ready(label(self.frozen, self.batch))
            run = config_from({}, [*words, "targets.cache=true"])
            jax.tree.map(lambda leaf: leaf.delete(), self.frozen)
            self.frozen = Frozen(None, None)
            assert not passes(run, "forget").frozen
        shapes = param_shapes(llama, jnp.float32)
        shardings = student_shardings(run, "forget", shapes, where, optimizer, mesh)
        self.state = init_state(model(base, "float32", 0), optimizer, shardings)
        step = make_training_step(run, "forget", forward, optimizer, mesh, shardings)
        self._step = step.lower(self.state, self.frozen, self.batch).compile()

    def timed(self) -> tuple[float, float]:
        """Run a step and return (seconds, loss)."""
        start = time.perf_counter()
        self.state, metrics = self._step(self.state, self.frozen, self.batch)
        jax.block_until_ready(self.state)
        return time.perf_counter() - start, metrics["loss"].item()

    def held(self) -> int:
        """Return the bytes of all weights and of the optimiser's state, on all devices."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves((self.state, self.frozen)))

    def device_peak(self) -> int | None:
        """Return the peak of allocated bytes on the first device; None on a CPU."""
        stats = jax.devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] if stats else None


def check_blocks(blocks: int, devices: int, accumulate: int) -> None:
    """Raise `UserError` if the devices cannot share the blocks of a microbatch equally."""
    if blocks % (devices * accumulate):
        raise UserError(
            f"--blocks {blocks}: {devices} devices in forget.accumulate={accumulate} microbatches cannot share them; "
            f"give a multiple of {devices * accumulate}"
        )


def check_gpu() -> None:
    """Raise `UserError` if JAX has no GPU; the CPU would otherwise take models meant for one."""
    if jax.default_backend() != "gpu":
        raise UserError("JAX finds no GPU: .venv/bin/pip install -e '.[gpu]', or give --device cpu")


def _random(shapes: Any, where: Any, seed: int) -> Any:
    """Return random weights made on their devices: kernels normal with 0.02, norms one."""

    def make(key: jax.Array) -> Any:
        leaves, structure = jax.tree.flatten(shapes)
        keys = jax.random.split(key, len(leaves))
        made = [
            jnp.ones(leaf.shape, leaf.dtype)
            if "scale" in jax.tree_util.keystr(path)
            else 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)
            for key, (path, leaf) in zip(keys, jax.tree_util.tree_leaves_with_path(shapes), strict=True)
        ]
        return jax.tree.unflatten(structure, made)

    return jax.jit(make, out_shardings=where)(jax.random.key(seed))


def matmul_rate(size: int = 8192, repeats: int = 32) -> float:
    """Return FLOP/s of large bf16 products, one after the other on the first device."""
    left, right = (jax.random.normal(jax.random.key(seed), (size, size), jnp.bfloat16) for seed in (0, 1))

    @jax.jit
    def chain(left: jax.Array, right: jax.Array) -> jax.Array:
        # Each product is a factor of the next one, scaled so that nothing overflows.
        return jax.lax.fori_loop(0, repeats, lambda _, x: (x @ right) * jnp.bfloat16(size**-0.5), left)

    jax.block_until_ready(chain(left, right))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(chain(left, right))
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 * repeats / best
