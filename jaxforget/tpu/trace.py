"""The trace of a compiled step: time of the measured operations by part of the method."""

import collections
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax

from jaxforget.tpu.hlo import KINDS, parse

PARTS = (
    "base",
    "reinforced",
    "student forward",
    "student backward",
    "tiles",
    "optimizer",
    "collectives",
    "other",
    "unattributed",
)
# The first pattern found in an operation's place in the source, as "jit(step)/transpose(jvp(student))/...", decides.
# The backward part includes remat's recomputation. Tiles are forward and backward, because the forward pass also
# computes their gradient.
_SCOPES = (
    (re.compile(r"\btranspose\(jvp\(student\)\)|\btranspose\(student\)"), "student backward"),
    (re.compile(r"\boptimizer\b"), "optimizer"),
    (re.compile(r"\btiles\b"), "tiles"),
    (re.compile(r"\bstudent\b"), "student forward"),
    (re.compile(r"\breinforced\b"), "reinforced"),
    (re.compile(r"/base\b|\(base\)"), "base"),
)
# The time of these operations includes that of the operations that they call, which are measured too.
_CONTAINERS = ("while", "call", "conditional", "async-start", "async-update", "async-done")


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """Time of the operations of a trace.

    Attributes:
      seconds: part of `PARTS` -> seconds, summed over devices and steps. "other": the operation has a place in the
        source outside the method's scopes. "unattributed": it has none, because the compiler added it.
      operations: number of measured operations.
      longest: (seconds, part, instruction, place in the source), longest first.
    """

    seconds: dict[str, float]
    operations: int
    longest: tuple[tuple[float, str, str, str], ...]


def part_of(opcode: str, path: str) -> str:
    """Return the part of the method that an instruction belongs to, by its opcode and its `op_name`."""
    if opcode.removesuffix("-start").removesuffix("-done") in KINDS:
        return "collectives"
    if not path:
        return "unattributed"
    return next((part for pattern, part in _SCOPES if pattern.search(path)), "other")


def read_breakdown(file: Path, program: str, longest: int = 8) -> Breakdown:
    """Return the breakdown of a trace.

    Args:
      file: an .xplane.pb file.
      program: text of the compiled program that was traced; operations of other programs are ignored.
      longest: number of operations to list.
    """
    module = re.match(r"HloModule ([\w.\-]+)", program)[1]
    known = {}
    for computation in parse(program).computations.values():
        for instruction in computation:
            place = re.search(r'op_name="([^"]*)"', instruction.rest)
            known[instruction.name] = (instruction.opcode, place[1] if place else "")
    seconds: collections.Counter[str] = collections.Counter()
    single: collections.Counter[tuple[str, str, str]] = collections.Counter()
    count = 0
    for name, duration in _operations(jax.profiler.ProfileData.from_file(str(file)), module):
        opcode, path = known.get(name, ("", ""))
        if opcode in _CONTAINERS:
            continue
        part = part_of(opcode, path)
        seconds[part] += duration
        single[part, name, path] += duration
        count += 1
    top = tuple((value, *key) for key, value in single.most_common(longest))
    return Breakdown({part: seconds[part] for part in PARTS}, count, top)


def _operations(data: Any, module: str) -> Iterator[tuple[str, float]]:
    """Yield (instruction, seconds) of every operation of `module`, from the planes of devices, or of the host's CPU."""
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:") and "CUSTOM" not in plane.name]
    for plane in devices or planes:
        lines = list(plane.lines)
        # A TPU's plane has one line for operations; its other lines show the same time again, by step or module.
        for line in [line for line in lines if line.name == "XLA Ops"] or lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats and stats.get("hlo_module", module) == module:
                    yield stats["hlo_op"], event.duration_ns / 1e9
                elif line.name == "XLA Ops":
                    yield event.name.removeprefix("%").partition(" ")[0], event.duration_ns / 1e9
