"""Reads a trace of a compiled step: which part of the method every measured operation belongs to."""

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
# An operation's place in the source, "jit(step)/transpose(jvp(student))/...": the first that is found in it decides.
# Backward includes what remat computes again; tiles are both ways, their gradient being taken on the way forward.
_SCOPES = (
    (re.compile(r"\btranspose\(jvp\(student\)\)|\btranspose\(student\)"), "student backward"),
    (re.compile(r"\boptimizer\b"), "optimizer"),
    (re.compile(r"\btiles\b"), "tiles"),
    (re.compile(r"\bstudent\b"), "student forward"),
    (re.compile(r"\breinforced\b"), "reinforced"),
    (re.compile(r"/base\b|\(base\)"), "base"),
)
# These last as long as what they call, which is measured by itself.
_CONTAINERS = ("while", "call", "conditional", "async-start", "async-update", "async-done")


@dataclasses.dataclass(frozen=True)
class Breakdown:
    """What a trace holds.

    Attributes:
      seconds: by part of `PARTS`, summed over devices and steps. "other": named, by none of the method's scopes.
        "unattributed": the compiler's own, or no instruction of the program.
      operations: how many were measured.
      longest: (seconds, part, instruction, place in the source), longest first.
    """

    seconds: dict[str, float]
    operations: int
    longest: tuple[tuple[float, str, str, str], ...]


def part_of(opcode: str, path: str) -> str:
    """The part of the method that an instruction belongs to, by its opcode and its `op_name`."""
    if opcode.removesuffix("-start").removesuffix("-done") in KINDS:
        return "collectives"
    if not path:
        return "unattributed"
    return next((part for pattern, part in _SCOPES if pattern.search(path)), "other")


def read_breakdown(file: Path, program: str, longest: int = 8) -> Breakdown:
    """The breakdown of a trace.

    Args:
      file: an .xplane.pb.
      program: the text of the compiled program that was traced; others in the trace are left out.
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
    """(instruction, seconds) of every operation of `module`: the devices', or where those are CPUs, the host's."""
    planes = list(data.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:") and "CUSTOM" not in plane.name]
    for plane in devices or planes:
        lines = list(plane.lines)
        # A TPU's plane has a line of its own for operations; its others show the same time again, as steps or modules.
        for line in [line for line in lines if line.name == "XLA Ops"] or lines:
            for event in line.events:
                stats = dict(event.stats)
                if "hlo_op" in stats and stats.get("hlo_module", module) == module:
                    yield stats["hlo_op"], event.duration_ns / 1e9
                elif line.name == "XLA Ops":
                    yield event.name.removeprefix("%").partition(" ")[0], event.duration_ns / 1e9
