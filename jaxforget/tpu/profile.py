"""`jaxforget profile`: runs and traces a training step on the devices of this machine and reports its cost by part.

The step is the same as the plan's and the run's. Its weights are random with the shardings of a run: the cost of a step
does not depend on their values, so neither a checkpoint nor an earlier stage is needed. Its blocks are those of the run
if they are prepared.
"""

import contextlib
import functools
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxforget.config import Config
from jaxforget.errors import UserError
from jaxforget.models.published import read_shape
from jaxforget.sharding import make_mesh, put_batch
from jaxforget.stages.estimate import model_flops_per_token, parameters_run
from jaxforget.stages.fit import batches_from
from jaxforget.stages.folder import check_folder
from jaxforget.stages.run import Run
from jaxforget.tpu.compiler import UNREADABLE, compile_with_text, no_cache
from jaxforget.tpu.flops import CONVENTION, attention_of
from jaxforget.tpu.programs import batch_widths, check_plan, training_program
from jaxforget.tpu.topology import peak_of
from jaxforget.tpu.trace import Breakdown, read_breakdown

WARM_UP = 2


def profile(
    config: Config,
    step: str = "forget",
    *,
    steps: int = 3,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Run and trace `steps` steps after `WARM_UP` others; write the trace to the run's xprof/.

    Returns:
      {"step", "blocks", "block_length", "batch" (where its blocks come from), "attention", "device", "devices",
      "chips", "steps", "compile_seconds", "step_seconds" (median), "tokens_per_second", "tokens_per_second_per_chip",
      "flops_per_token", "flops_per_second_per_chip", "mfu" (null where the chip's peak is not published here),
      "peak_memory_bytes" (null where the device does not tell), "parts" (seconds of a step on one device, by part),
      "operation_seconds" (their sum), "longest" (operations), "trace", "note" (null, or why there are
      no parts)}.

    Raises:
      UserError: no model or folder is named, `out` is no folder that a run may fill, or rows that the devices cannot
        share. OSError: xprof/ cannot be written.
    """
    if config.out is None:
        raise UserError("out is not set; it names the folder whose xprof/ the trace goes to, as out=runs/NAME")
    if config.model.folder is None:
        raise UserError("model.folder is not set; it names a model's folder or hub id, of which config.json is enough")
    check_folder(Run(config), remedy="name an empty or a new folder")
    model_config, _ = read_shape(config.model.folder)
    mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    widths = batch_widths(config)
    check_plan(config, model_config, mesh, (step,))
    folder = Path(config.out) / "xprof"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):  # a place that cannot be written should not wait for the compiler
        pass
    kind = jax.devices()[0].device_kind
    say(f"compiling {step} for {mesh.size} x {kind}")
    function, abstract = training_program(config, model_config, mesh, widths, step)
    start = time.perf_counter()
    # A program of an earlier compilation is not wanted: its time is part of the answer.
    with no_cache():
        traced = function.trace(*abstract)
        compiled, text = compile_with_text(traced.lower())
        compile_seconds = time.perf_counter() - start
    shapes = next(tree for tree in abstract if _is_batch(tree))
    batch, source = _batch(config, shapes, model_config.vocab_size, mesh)
    arguments = [batch if _is_batch(tree) else _filled(tree) for tree in abstract]
    step_seconds, written = _run_steps(compiled, arguments, steps, folder, say)
    memory = jax.local_devices()[0].memory_stats() or {}
    measured = Breakdown({}, 0, ()) if text is None else read_breakdown(written, text)
    blocks, length = shapes["tokens"].shape
    flops = model_flops_per_token(config, step, parameters_run(config, step, model_config))
    # Of all traced steps and of this process's devices -> of one step, on one device.
    share = 1 / (steps * len(mesh.local_devices))
    return {
        "step": step,
        "blocks": blocks,
        "block_length": length,
        "batch": source,
        "attention": attention_of(traced.jaxpr),
        "device": kind,
        "devices": mesh.size,
        "steps": steps,
        "compile_seconds": compile_seconds,
        "step_seconds": step_seconds,
        **_speed(blocks * length / step_seconds, flops, mesh.size, kind),
        "peak_memory_bytes": memory.get("peak_bytes_in_use"),
        "parts": {part: value * share for part, value in measured.seconds.items()},
        "operation_seconds": sum(measured.seconds.values()) * share,
        "longest": [
            {"seconds": value * share, "part": part, "instruction": name, "source": path}
            for value, part, name, path in measured.longest
        ],
        "trace": str(written),
        "note": None if text is not None else f"parts and longest are unknown: {UNREADABLE}",
    }


def _run_steps(
    compiled: Callable, arguments: list[Any], steps: int, folder: Path, say: Callable[[str], None]
) -> tuple[float, Path]:
    """Run a compiled step `WARM_UP` times, then `steps` times under a trace.

    Args:
      compiled: the step.
      arguments: its arguments, of which the first, the state, is donated and replaced.
      steps: number of traced steps.
      folder: where the trace goes.
      say: receives a line a step.

    Returns:
      The median of the traced steps' seconds, and the path of the trace.
    """

    def run(count: int, what: str) -> list[float]:
        seconds = []
        for _ in range(count):
            start = time.perf_counter()
            arguments[0], _ = compiled(*arguments)
            jax.block_until_ready(arguments[0])
            seconds.append(time.perf_counter() - start)
            say(f"{what}: {seconds[-1]:.2f} s")
        return seconds

    run(WARM_UP, "warm-up")
    with trace(folder) as written:
        seconds = run(steps, "traced")
    return statistics.median(seconds), written[0]


def _speed(tokens_per_second: float, flops_per_token: int, devices: int, kind: str) -> dict[str, Any]:
    """Return the figures of speed of `profile`, on devices of a kind that JAX names."""
    per_chip, peak = peak_of(kind)
    chips = devices / per_chip
    rate = tokens_per_second / chips
    return {
        "chips": chips,
        "tokens_per_second": tokens_per_second,
        "tokens_per_second_per_chip": rate,
        "flops_per_token": flops_per_token,
        "flops_per_second_per_chip": flops_per_token * rate,
        "mfu": None if peak is None else flops_per_token * rate / peak,
    }


def as_text(found: dict[str, Any]) -> str:
    """Return the result of `profile` as text for a terminal."""
    rate, step_seconds = found["tokens_per_second_per_chip"], found["step_seconds"]
    lines = [
        f"{found['step']}: {found['blocks']} blocks of {found['block_length']} tokens ({found['batch']}) on "
        f"{found['devices']} x {found['device']}, {found['attention']} attention",
        f"compiled in {found['compile_seconds']:.1f} s; {found['steps']} steps traced after {WARM_UP} of warm-up, "
        f"{step_seconds:.3f} s each (median)",
        f"{found['tokens_per_second']:,.0f} tokens/s, {rate:,.0f} a chip; "
        f"{found['flops_per_second_per_chip'] / 1e12:.3g} TFLOP/s a chip"
        + (", MFU unknown: no peak is published here for it" if found["mfu"] is None else f", MFU {found['mfu']:.1%}"),
    ]
    if found["peak_memory_bytes"] is not None:
        lines.append(f"peak memory {found['peak_memory_bytes'] / 2**30:.2f} GiB on the first device")
    lines += ["", f"{'part':18}{'s a step':>10}{'share':>8}"]
    total = found["operation_seconds"] or 1.0
    lines += [f"{part:18}{value:10.4f}{value / total:8.1%}" for part, value in found["parts"].items()]
    lines += [
        f"{'operations':18}{found['operation_seconds']:10.4f}  on a device, of {step_seconds:.4f} s that a step takes; "
        "they may overlap, or leave gaps",
        "",
        "longest:",
        # The compiler joins sources of instructions that it merged; the end of the last one says enough.
        *(f"{x['seconds']:10.4f}  {x['part']}: {x['instruction']}  {x['source'][-72:]}" for x in found["longest"]),
        "",
        f"MFU and FLOP/s count {found['flops_per_token']:,} FLOP a token: {CONVENTION.partition('. hardware')[0]}.",
        "Backward includes what remat computes again; tiles are both ways at once; other lies in none of the method's",
        "scopes; unattributed has no source at all.",
        f"trace: {found['trace']}",
        *([] if found["note"] is None else [f"note: {found['note']}"]),
    ]
    return "\n".join(lines)


def _is_batch(tree: Any) -> bool:
    return isinstance(tree, dict) and "tokens" in tree


@contextlib.contextmanager
def trace(folder: Path) -> Iterator[list[Path]]:
    """Trace the operations inside the context; afterwards the list holds the path of the trace, under `folder`."""
    if jax.default_backend() != "tpu" and _holds_libtpu():
        # libtpu's part of the profiler looks for chips; without any, the process crashes.
        raise UserError(
            "this process has loaded the TPU compiler, beside which the profiler crashes; take the profile in a "
            "process of its own, on a GPU with JAX_PLATFORMS=cuda,cpu"
        )
    options = jax.profiler.ProfileOptions()
    # The Python tracer would record an event for every call; only the devices' operations are needed.
    options.python_tracer_level = 0
    before = set(folder.rglob("*.xplane.pb"))
    written: list[Path] = []
    jax.profiler.start_trace(str(folder), profiler_options=options)
    try:
        yield written
    finally:
        jax.profiler.stop_trace()
    written += sorted(set(folder.rglob("*.xplane.pb")) - before)
    if not written:
        raise UserError(f"{folder}: the profiler wrote no trace there; free space, or name another out=")


def _holds_libtpu() -> bool:
    """Return True if this process has loaded the TPU compiler; False on a system without /proc."""
    maps = Path("/proc/self/maps")
    return maps.is_file() and "libtpu.so" in maps.read_text()


def _filled(tree: Any) -> Any:
    """Return arrays for abstract arguments, sharded as these: small random weights, zeros for the optimiser's state."""
    counter = itertools.count()

    def fill(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        random = jnp.issubdtype(leaf.dtype, jnp.floating) and "opt_state" not in jax.tree_util.keystr(path)
        return _made(leaf.shape, leaf.dtype, leaf.sharding, random)(next(counter))

    return jax.tree.map_with_path(fill, tree)


@functools.cache
def _made(shape: tuple[int, ...], dtype: Any, sharding: Any, random: bool) -> Callable[[int], jax.Array]:
    def make(seed: jax.Array) -> jax.Array:
        if not random:
            return jnp.zeros(shape, dtype)
        return 0.02 * jax.random.normal(jax.random.key(seed), shape, dtype)

    return jax.jit(make, out_shardings=sharding)


def _batch(config: Config, shapes: dict[str, Any], vocabulary: int, mesh: Mesh) -> tuple[dict[str, jax.Array], str]:
    """Return the run's first batch and its source.

    Without prepared blocks it is a batch of random tokens in the same shapes, with a weight of 1 at every position.
    """
    folder = Path(config.out) / "blocks" / "target"
    if (folder / "blocks.json").is_file():
        rows = shapes["tokens"].shape[0]
        retain = "retain" in shapes and rows > config.forget.batch
        batches = batches_from(Run(config), 0, batch=rows - config.retain.rows * retain, retain=retain)
        found = next(batches)
        batches.close()
        source = f"prepared in {folder}"
    else:
        found, source = _random_batch(config, shapes, vocabulary), "random tokens: no blocks are prepared yet"
    # The step may read cached labels; their values do not change its cost.
    columns = {**_random_batch(config, shapes, vocabulary), **found}
    return put_batch({name: columns[name] for name in shapes}, mesh), source


def _random_batch(config: Config, shapes: dict[str, Any], vocabulary: int) -> dict[str, np.ndarray]:
    """Return this process's rows of a batch of random tokens."""
    rng = np.random.default_rng(config.seed)
    rows, length = shapes["tokens"].shape
    rows //= jax.process_count()
    batch = {name: np.zeros((rows, *leaf.shape[1:]), leaf.dtype) for name, leaf in shapes.items()}
    for name in {"tokens", "translated", "translations", "unrelated_tokens"} & batch.keys():
        batch[name] = rng.integers(0, vocabulary, batch[name].shape, np.int32)
    if "position_map" in batch:
        batch["position_map"][:] = np.arange(length)
        batch["suppress_ids"][:] = batch["suppress_from"][:] = -1
    if "position_maps" in batch:
        batch["position_maps"][:] = np.arange(length)
        batch["moved_from"][:] = -1
    for name in {"weights", "unrelated_weights"} & batch.keys():
        batch[name][:] = 1
    return batch
