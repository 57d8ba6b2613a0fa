"""The text of a compiled TPU program: iterations of loops, bytes of collectives, largest buffers.

XLA's own cost analysis counts a loop's body once. Here an instruction counts once for each iteration of its loops.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator

BITS = {"pred": 8, "s4": 4, "u4": 4, "s2": 2, "u2": 2, "token": 0, "bf16": 16, "opaque": 0}
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_END = re.compile(r"^\}($|, execution_thread)")
_INSTRUCTION = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"(?:^|[\s)}\]])([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]+m[0-9]+\w*)?)\[([0-9,<=]*)\](\{[^}]*\})?")
_CALLED = re.compile(r"(calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)")
_VIEWS = ("parameter", "get-tuple-element", "tuple", "bitcast", "constant", "while", "conditional", "opt-barrier")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name: name of the instruction.
      opcode: its operation.
      shape: text of the result's shape.
      rest: text of operands and attributes.
      root: True if the instruction gives the computation's result.
    """

    name: str
    opcode: str
    shape: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        return re.findall(r"%([\w.\-]+)", self.rest.partition(")")[0])

    def called(self) -> dict[str, list[str]]:
        """Return the called computations: attribute -> their names."""
        return {kind: re.findall(r"[\w.\-]+", names) for kind, names in _CALLED.findall(self.rest)}


@dataclasses.dataclass(frozen=True)
class Program:
    """A parsed program.

    Attributes:
      computations: name -> instructions.
      entry: name of the computation that runs first.
    """

    computations: dict[str, list[Instruction]]
    entry: str


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A large result of an instruction.

    Attributes:
      bytes: size on one device.
      shape: text of the shape, with the dtype.
      operation: place in the source, by JAX's name scopes.
    """

    bytes: int
    shape: str
    operation: str


def parse(text: str) -> Program:
    """Return the program that the compiler's text describes."""
    computations: dict[str, list[Instruction]] = {}
    entry = current = ""
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = header[2]
            computations[current] = []
            entry = current if header[1] else entry
        elif _END.match(line):
            current = ""
        elif current and (found := _INSTRUCTION.match(line)) and (opcode := _OPCODE.search(found[3])):
            shape, rest = found[3][: opcode.start(1)].strip(), found[3][opcode.end() :]
            computations[current].append(Instruction(found[2], opcode[1], shape, rest, bool(found[1])))
        elif current and computations[current]:  # a kernel's attributes take several lines
            last = computations[current][-1]
            computations[current][-1] = dataclasses.replace(last, rest=f"{last.rest} {line}")
    return Program(computations, entry)


def array_bytes(shape: str) -> int:
    """Return the bytes of the arrays in a shape's text, as "(f32[2,3], bf16[4])", without the hardware's padding."""
    total = 0
    for kind, sizes, _ in _ARRAY.findall(shape):
        bits = BITS.get(kind)
        if bits is None:
            digits = re.match(r"[a-z]+(\d+)", kind)
            bits = int(digits[1]) if digits else 0
        total += math.ceil(math.prod(int(size) for size in re.findall(r"\d+", sizes)) * bits / 8)
    return total


def trip_count(program: Program, loop: Instruction, around: list[Instruction]) -> int | None:
    """Return the number of iterations of a `while`; None if it depends on the data.

    The number follows from start, step and end of the loop's counter: the condition compares it with a constant, and
    the body adds a constant, which is 2 where the compiler has unrolled the loop once. A start that is not a constant
    counts as 0, a step as 1.

    Args:
      program: the program.
      loop: the `while`.
      around: instructions of the computation that holds it.
    """
    if known := re.search(r'known_trip_count"?:\s*\{"n":"?(\d+)', loop.rest):
        return int(known[1])
    called = loop.called()
    condition, body = (program.computations[called[part][0]] for part in ("condition", "body"))
    root, named = _root(condition), _by_name(condition)
    if root is None or root.opcode != "compare" or len(root.operands) != 2:
        return None
    ends = [_constant(named.get(name)) for name in root.operands]
    indices = [_index(named.get(name)) for name in root.operands]
    end = next((value for value in ends if value is not None), None)
    index = next((value for value in indices if value is not None), None)
    if end is None or index is None:
        return None
    last = 1 if "direction=LE" in root.rest or "direction=GE" in root.rest else 0
    start = _constant(_member(_by_name(around), loop.operands[:1], index)) or 0
    return max(0, -(-(end + last - start) // _step(body, index)))


def _by_name(computation: list[Instruction]) -> dict[str, Instruction]:
    return {instruction.name: instruction for instruction in computation}


def _root(computation: list[Instruction]) -> Instruction | None:
    return next((instruction for instruction in computation if instruction.root), None)


def _constant(instruction: Instruction | None) -> int | None:
    if instruction is None or instruction.opcode != "constant":
        return None
    value = re.match(r"\s*(-?\d+)\)", instruction.rest)
    return int(value[1]) if value else None


def _index(instruction: Instruction | None) -> int | None:
    """Return the index of a get-tuple-element; None for another instruction."""
    if instruction is None or instruction.opcode != "get-tuple-element":
        return None
    found = re.search(r"index=(\d+)", instruction.rest)
    return int(found[1]) if found else None


def _member(named: dict[str, Instruction], names: list[str], index: int) -> Instruction | None:
    """Return element `index` of the tuple named by the first of `names`; None if that is no tuple."""
    whole = named.get(names[0]) if names else None
    if whole is None or whole.opcode != "tuple" or index >= len(whole.operands):
        return None
    return named.get(whole.operands[index])


def _step(body: list[Instruction], index: int) -> int:
    """Return the number that a loop's body adds to element `index`; 1 if it cannot be read."""
    named, root = _by_name(body), _root(body)
    at = _member(named, [root.name], index) if root is not None else None
    step = 0
    while at is not None and _index(at) != index:
        constants = [_constant(named.get(name)) for name in at.operands]
        rest = [name for name, value in zip(at.operands, constants, strict=True) if value is None]
        if at.opcode not in ("add", "copy") or len(rest) != 1:
            return 1
        step += sum(value for value in constants if value is not None)
        at = named.get(rest[0])
    return max(step, 1) if at is not None else 1


def executed(program: Program, unknown_trips: int) -> Iterator[tuple[str, int]]:
    """Yield (computation, number of runs) for every computation except those inside fusions.

    Args:
      program: the program.
      unknown_trips: number of iterations of a loop whose length depends on the data.
    """
    pending = [(program.entry, 1)]
    totals: collections.Counter[str] = collections.Counter()
    while pending:
        name, times = pending.pop()
        totals[name] += times
        for instruction in program.computations.get(name, []):
            called = instruction.called()
            if instruction.opcode == "while":
                trips = trip_count(program, instruction, program.computations[name])
                inside = times * (unknown_trips if trips is None else trips)
                pending += [(body, inside) for body in called["body"]]
            elif instruction.opcode in ("call", "conditional", "async-start"):
                kinds = ("to_apply", "branch_computations", "called_computations", "calls")
                pending += [(other, times) for kind in kinds for other in called.get(kind, [])]
            elif instruction.opcode == "custom-call":  # a SparseCore's program is called by one
                pending += [(other, times) for other in called.get("called_computations", [])]
    yield from totals.items()


def unknown_loops(program: Program) -> int:
    """Return the number of loops whose length depends on the data."""
    count = 0
    for name, _ in executed(program, 1):
        body = program.computations.get(name, [])
        count += sum(i.opcode == "while" and trip_count(program, i, body) is None for i in body)
    return count


def collective_bytes(program: Program, devices: int, unknown_trips: int = 1) -> dict[str, int]:
    """Return the bytes that one device sends in one run of the program: kind of collective -> bytes.

    For a result (all-gather) or an operand (reduce-scatter) of n bytes over g devices, a ring sends n (g - 1) / g.
    An all-reduce sends twice that, an all-to-all as much as an all-gather, and a permute n. TPU programs have
    collectives inside fusions: an asynchronous one appears in several (start, progress, done) and counts at its start,
    and an all-reduce whose fusion keeps a slice is a reduce-scatter.

    Args:
      program: the program.
      devices: number of devices that run it.
      unknown_trips: number of iterations of a loop whose length depends on the data.
    """
    totals: collections.Counter[str] = collections.Counter()
    for name, times in executed(program, unknown_trips):
        for instruction in program.computations.get(name, []):
            if instruction.opcode == "fusion":
                for inner in instruction.called().get("calls", []):
                    for kind, sent in _fused(program.computations.get(inner, []), inner, devices):
                        totals[kind] += sent * times
            elif kind := _kind(instruction):
                totals[kind] += _sent(kind, instruction, program.computations[name], devices) * times
    return {kind: totals[kind] for kind in KINDS if totals[kind]}


def _kind(instruction: Instruction) -> str | None:
    base = instruction.opcode.removesuffix("-start")
    return base if base in KINDS else None


def _fused(body: list[Instruction], name: str, devices: int) -> Iterator[tuple[str, int]]:
    found = [instruction for instruction in body if _kind(instruction)]
    if not found:
        return
    starts = {name for i in body if '"AsyncCollectiveStart"' in i.rest for name in i.operands}
    under_way = any('"AsyncCollective' in i.rest for i in body) or name.startswith("async_collective_fusion")
    for instruction in found:
        kind = _kind(instruction)
        if under_way and instruction.name not in starts:
            continue
        if kind == "all-reduce" and not under_way and any(i.opcode == "dynamic-slice" for i in body):
            kind = "reduce-scatter"
            group = _group(instruction.rest, devices)
            yield kind, array_bytes(instruction.shape) * (group - 1) // group
            continue
        yield kind, _sent(kind, instruction, body, devices)


def _sent(kind: str, instruction: Instruction, body: list[Instruction], devices: int) -> int:
    shapes = {i.name: i.shape for i in body}
    operands = sum(array_bytes(shapes.get(name, "")) for name in instruction.operands)
    if kind == "collective-permute":
        return operands or array_bytes(instruction.shape) // 2
    group = _group(instruction.rest, devices)
    if kind == "all-gather":
        whole = operands * group if operands else array_bytes(instruction.shape)
    else:
        whole = operands or array_bytes(instruction.shape) * (group if kind == "reduce-scatter" else 1)
    return whole * (group - 1) * (2 if kind == "all-reduce" else 1) // group


def _group(rest: str, devices: int) -> int:
    """Return the number of devices of a replica group: {{0,1},{2,3}}, [4,2]<=[8], or mesh['a'=4,'b'=2] {'b'}."""
    if found := re.search(r"replica_groups=\{\{([0-9,]*)\}", rest):
        return max(1, len(found[1].split(",")))
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", rest):
        return int(found[2])
    if found := re.search(r"replica_groups=@?\w*\[([^\]]*)\] ?\{([^}]*)\}", rest):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        # An axis may be split: 'a':(2)4 is its part of size 4, which follows a part of size 2.
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else sizes[axis] for axis, part in parts)
    return devices


def largest_buffers(program: Program, count: int = 5) -> list[Buffer]:
    """Return the `count` largest results that instructions write to HBM, each shape and source once."""
    found: dict[tuple[str, str], Buffer] = {}
    for name, _ in executed(program, 1):
        for instruction in program.computations.get(name, []):
            if instruction.opcode in _VIEWS or instruction.opcode.endswith("-done"):
                continue
            source = re.search(r'op_name="([^"]*)"', instruction.rest)
            path = source[1] if source else instruction.opcode
            operation = re.sub(r"/(while|body|closed_call|jit\(\w+\))(?=/)", "", path)
            for kind, sizes, layout in _ARRAY.findall(instruction.shape):
                shape = f"{kind}[{sizes}]"
                if "S(" not in layout:  # the mark of the chip's vector memory, which is not HBM
                    found.setdefault((shape, operation), Buffer(array_bytes(shape), shape, operation))
    return sorted(found.values(), key=lambda buffer: -buffer.bytes)[:count]
