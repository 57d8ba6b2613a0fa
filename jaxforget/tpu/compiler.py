"""Asks the TPU compiler: does a program fit, what does it need, what does it move."""

import contextlib
import dataclasses
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import SingleDeviceSharding

from jaxforget.tpu.flops import product_flops, runs_kernels
from jaxforget.tpu.hlo import Buffer, collective_bytes, largest_buffers, parse, unknown_loops

UNREADABLE = "the compiled program's text cannot be read"
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_AMOUNT = r"\(?([0-9.]+)([KMGT]?)B?\)?"
# Both of the compiler's ways to say it: after scheduling, and by a first estimate that is already hopeless.
_REFUSALS = (
    re.compile(rf"Used {_AMOUNT} of {_AMOUNT} hbm"),
    re.compile(rf"memory required for HLO temporaries {_AMOUNT} exceeds available HBM {_AMOUNT}"),
)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler said of a program. Sizes are bytes on one device; None: it did not say.

    Attributes:
      fits: it compiled.
      peak: arguments and outputs (an aliased one once) and temporaries; where it does not fit, what it would need.
      arguments, temporaries: parts of `peak`.
      hardware_flops: of one run's matrix products, over all devices.
      collectives: sent in one run, by kind.
      data_loops: loops whose length the data decide; counted at their longest.
      refusal: why it did not compile, one line.
      note: what could not be read.
      kernels: whether attention is the TPU kernel.
    """

    fits: bool
    seconds: float
    peak: int | None
    arguments: int | None = None
    temporaries: int | None = None
    hardware_flops: int = 0
    collectives: dict[str, int] | None = None
    data_loops: int | None = None
    buffers: tuple[Buffer, ...] = ()
    refusal: str | None = None
    note: str | None = None
    kernels: bool = False

    @property
    def out_of_memory(self) -> bool:
        """Whether memory is why it does not compile, rather than a fault of the compiler's."""
        return self.refusal is not None and "RESOURCE_EXHAUSTED" in self.refusal


def compile_step(traced: Any, devices: int, trips: int, *, read: bool = True) -> Compiled:
    """Compiles a traced program for the slice its arguments lie on.

    Args:
      devices: how many there are.
      trips: turns of a loop whose length the data decide, at most.
      read: read the program too, for what it sends and its buffers.
    """
    flops, kernels = product_flops(traced.jaxpr, trips), runs_kernels(traced.jaxpr)
    start = time.perf_counter()
    lowered = traced.lower()
    try:
        compiled, text = compile_with_text(lowered) if read else (lowered.compile(), None)
    except jax.errors.JaxRuntimeError as error:
        needed, _ = parse_refusal(str(error))
        refusal = first_line(str(error))
        seconds = time.perf_counter() - start
        return Compiled(False, seconds, needed, hardware_flops=flops, refusal=refusal, kernels=kernels)
    seconds = time.perf_counter() - start
    memory = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    found = Compiled(
        True,
        seconds,
        memory.argument_size_in_bytes + outputs + memory.temp_size_in_bytes,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        flops,
        kernels=kernels,
    )
    if text is None:
        return dataclasses.replace(found, note=UNREADABLE) if read else found
    program = parse(text)
    return dataclasses.replace(
        found,
        collectives=collective_bytes(program, devices, trips),
        data_loops=unknown_loops(program),
        buffers=tuple(largest_buffers(program)),
    )


def compile_with_text(lowered: Any) -> tuple[Any, str | None]:
    """A lowered program compiled, and the text of what became of it; None where it cannot be had.

    The text that the compiler writes itself: JAX cannot print a TPU program in which SparseCores (v5p, v6e, tpu7x) sum
    up the embedding's gradient, or send.
    """
    with tempfile.TemporaryDirectory() as folder:
        compiled = lowered.compile(compiler_options={"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
        written = list(Path(folder).glob("*after_optimizations.txt"))
        if len(written) == 1:
            return compiled, written[0].read_text()
    try:
        return compiled, compiled.as_text()
    except jax.errors.JaxRuntimeError:
        return compiled, None


def memory_limit(device: jax.Device) -> int:
    """HBM bytes that a program may use on `device`, as its compiler states it when it refuses one that is too large."""
    huge = jax.ShapeDtypeStruct((2**40,), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        _, limit = parse_refusal(str(error))
        if limit is not None:
            return limit
        raise
    raise RuntimeError(f"{device.device_kind}: the compiler took 8 TiB for granted")


def parse_refusal(message: str) -> tuple[int | None, int | None]:
    """(needed, available) bytes of HBM in the compiler's message; None where it is about something else."""
    for pattern in _REFUSALS:
        if found := pattern.search(message):
            needed, needed_unit, limit, limit_unit = found.groups()
            return round(float(needed) * UNITS[needed_unit]), round(float(limit) * UNITS[limit_unit])
    return None, None


def first_line(message: str) -> str:
    """The first line that says something."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # "RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom:" alone says little.
    return " ".join(lines[:2])[:400] if lines and lines[0].endswith(":") else (lines[0][:400] if lines else "no reason")


@contextlib.contextmanager
def no_cache() -> Iterator[None]:
    """While it lasts, compiled programs are neither kept nor found again."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # whether there is one is asked once, at the first compilation
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
