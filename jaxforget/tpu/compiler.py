"""Compilation for TPU slices: the memory that a program needs, and the bytes that it sends."""

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
# The compiler has two messages: one after scheduling, one when its first estimate already exceeds the memory.
_REFUSALS = (
    re.compile(rf"Used {_AMOUNT} of {_AMOUNT} hbm"),
    re.compile(rf"memory required for HLO temporaries {_AMOUNT} exceeds available HBM {_AMOUNT}"),
)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """Result of compiling a program. Sizes are bytes on one device; None if the compiler does not report them.

    Attributes:
      fits: True if the program compiled.
      seconds: duration of the compilation.
      peak: size of arguments, outputs (an aliased one counts once) and temporaries; the size that the compiler reports
        as needed if the program does not fit.
      arguments: size of the arguments, a part of `peak`.
      temporaries: size of the temporaries, a part of `peak`.
      hardware_flops: FLOP of the matrix products of one run, over all devices.
      collectives: kind of collective -> bytes sent in one run.
      data_loops: number of loops whose length depends on the data; each counts at its longest.
      buffers: the largest results of instructions.
      refusal: the reason why the program did not compile, one line.
      note: information that could not be read, one line.
      kernels: True if attention is the TPU kernel.
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
        """True if the program does not compile because of memory, False if it compiles or the compiler failed."""
        return self.refusal is not None and "RESOURCE_EXHAUSTED" in self.refusal


def compile_step(traced: Any, devices: int, trips: int, *, read: bool = True) -> Compiled:
    """Compile a traced program for the slice on which its arguments are placed.

    Args:
      traced: the program.
      devices: number of devices of the slice.
      trips: maximal number of iterations of a loop whose length depends on the data.
      read: also read the compiled program, for the bytes that it sends and its largest buffers.
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
    """Compile a lowered program; return it with its optimised HLO text, or None if the text cannot be read.

    The compiler writes the text to a file, because JAX cannot print a TPU program in which SparseCores (v5p, v6e,
    tpu7x) sum the embedding's gradient or send data.
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
    """Return the bytes of HBM that a program may use on `device`.

    The compiler reports the number only when it refuses a program, so it is given one that is too large.
    """
    huge = jax.ShapeDtypeStruct((2**40,), jnp.float32, sharding=SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(huge).compile()
    except jax.errors.JaxRuntimeError as error:
        _, limit = parse_refusal(str(error))
        if limit is not None:
            return limit
        raise
    raise RuntimeError(f"{device.device_kind}: the compiler accepted a program of 8 TiB, so its limit is unknown")


def parse_refusal(message: str) -> tuple[int | None, int | None]:
    """Return the (needed, available) bytes of HBM in the compiler's message; (None, None) if it names no sizes."""
    for pattern in _REFUSALS:
        if found := pattern.search(message):
            needed, needed_unit, limit, limit_unit = found.groups()
            return round(float(needed) * UNITS[needed_unit]), round(float(limit) * UNITS[limit_unit])
    return None, None


def first_line(message: str) -> str:
    """Return the first line of a message that is not empty, with the second one if the first only announces it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    # A first line such as "RESOURCE_EXHAUSTED: E1001: CompileTimeScopedVmemOom:" does not name the reason.
    return " ".join(lines[:2])[:400] if lines and lines[0].endswith(":") else (lines[0][:400] if lines else "no reason")


@contextlib.contextmanager
def no_cache() -> Iterator[None]:
    """Disable the cache of compiled programs inside the context."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX reads the setting only once, at the first compilation
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
