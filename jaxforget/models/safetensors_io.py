"""Reading and writing of the safetensors format without a framework.

A file is 8 bytes of header length, the header `{name: {dtype, shape, data_offsets}}` in JSON, then the
tensors, raw and little-endian. Reading maps the file: only the pages of requested slices are read from disk.
`load.py` and `adapters.py` read by this module; `export.py` and `adapters.py` write by it.
"""

import dataclasses
import json
import math
import mmap
import os
import struct
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np

from jaxforget.errors import UserError
from jaxforget.files import refuse_lfs_pointer

FLOATS = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
# The format's other dtypes, known so that a header that holds one can be checked and the dtype named.
OTHER_WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8}
FP8_WIDTHS = {"F8_E5M2": 1, "F8_E4M3": 1, "F8_E8M0": 1}
WIDTHS = {**{code: dtype.itemsize for code, dtype in FLOATS.items()}, **OTHER_WIDTHS, **FP8_WIDTHS}
HEADER_LIMIT = 100_000_000  # bytes; the reference reader's own limit, against a length field of garbage
TILE = 128  # rows and columns that a transposition moves at once: both tiles fit the second-level cache
SYNCED = 256 << 20  # bytes after which the disk is told to write
AGAIN = "download or copy the file again"


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
      code: the format's dtype code, as "BF16".
      shape: the shape.
      start: first byte, from the start of the file.
      stop: the byte after the last one.
    """

    code: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_header(path: Path) -> dict[str, Stored]:
    """Return the tensors of the file at `path`, checked against its size.

    Raises:
      UserError: not a safetensors file, corrupt, or truncated.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder; {AGAIN}")
    size = path.stat().st_size
    refuse_lfs_pointer(path)
    with open(path, "rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= HEADER_LIMIT:
            raise UserError(f"{path}: no safetensors header; {AGAIN}")
        if 8 + length > size:
            raise UserError(f"{path}: truncated inside its header ({size} bytes of at least {8 + length}); {AGAIN}")
        text = file.read(length)
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        stored = {name: _stored(entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: corrupt safetensors header; {AGAIN}") from None
    end = 8 + length
    for name, tensor in sorted(stored.items(), key=lambda item: (item[1].start, item[1].stop)):
        width = WIDTHS.get(tensor.code)
        if width is None:
            raise UserError(f"{path}: tensor {name} has unknown dtype {tensor.code}; save it as float32 or bfloat16")
        if tensor.start != end or tensor.stop - tensor.start != math.prod(tensor.shape) * width:
            raise UserError(f"{path}: corrupt safetensors header: the offsets of {name} do not fit its shape; {AGAIN}")
        end = tensor.stop
    if end > size:
        raise UserError(f"{path}: truncated: {size} bytes, its header promises {end}; {AGAIN}")
    if end < size:
        raise UserError(f"{path}: {size - end} bytes beyond its last tensor; {AGAIN}")
    return stored


def _stored(entry: dict, base: int) -> Stored:
    start, stop = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if not all(isinstance(number, int) and number >= 0 for number in (start, stop, *shape)):
        raise ValueError("offsets and shapes are whole numbers")
    return Stored(str(entry["dtype"]), shape, base + start, base + stop)


class MappedFile:
    """An open, memory-mapped safetensors file. Safe to read from several threads."""

    def __init__(self, path: Path):
        self.path = path
        self.tensors = read_header(path)
        with open(path, "rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def view(self, name: str) -> np.ndarray:
        """Return tensor `name`, of its stored shape and dtype, as a read-only view of the mapping.

        Nothing is read from disk until an element is used.
        """
        stored = self.tensors[name]
        flat = np.frombuffer(self._map, FLOATS[stored.code], math.prod(stored.shape), stored.start)
        return flat.reshape(stored.shape)

    def release(self, name: str, rows: slice) -> None:
        """Remove the pages of `rows` from resident memory; they stay in the system's file cache."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        stored = self.tensors[name]
        row = (stored.stop - stored.start) // max(1, stored.shape[0])
        # madvise needs the start of a page. Other rows on the same page are mapped again when they are read.
        start = (stored.start + rows.start * row) // mmap.PAGESIZE * mmap.PAGESIZE
        self._map.madvise(mmap.MADV_DONTNEED, start, stored.start + rows.stop * row - start)


def copy_cast(out: np.ndarray, source: np.ndarray, *, transpose: bool = False) -> None:
    """Copy `source` into `out`, or its transpose [R, C] -> [C, R], between any two float dtypes of the format.

    A transposition moves tiles that are first made contiguous: rows a power of two apart share cache sets, so that
    reading down a column evicts its own lines (measured: 2.5 times slower without, on a [11008, 4096] kernel).
    """
    bits = out.view(_bits(out.dtype))
    if not transpose:
        step = max(
            1, TILE * TILE * out.shape[0] // max(1, out.size)
        )  # rows of one tile's size: what a cast makes stays cached
        for row in range(0, out.shape[0], step):
            bits[row : row + step] = _cast_bits(source[row : row + step], out.dtype)
        return
    for row in range(0, source.shape[0], TILE):
        for column in range(0, source.shape[1], TILE):
            tile = np.ascontiguousarray(source[row : row + TILE, column : column + TILE])
            bits[column : column + TILE, row : row + TILE] = _cast_bits(tile, out.dtype).T


def _bits(dtype: np.dtype) -> np.dtype:
    return np.dtype(f"u{dtype.itemsize}")


def _cast_bits(source: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return `source` as `dtype`, viewed as integers: numpy copies bfloat16 with one call for each element."""
    if source.dtype == dtype:
        return source.view(_bits(dtype))
    if source.dtype == FLOATS["BF16"] and dtype == np.float32:
        return np.left_shift(source.view(np.uint16), 16, dtype=np.uint32)  # bfloat16 is the upper half of a float32
    return source.astype(dtype).view(_bits(dtype))


def code_of(dtype: np.dtype) -> str:
    """Return the format's code of a float dtype: `BF16` for bfloat16."""
    return next(code for code, known in FLOATS.items() if known == np.dtype(dtype))


def write_file(path: Path, dtype: np.dtype, shapes: dict[str, tuple[int, ...]], tensors: Iterable[np.ndarray]) -> None:
    """Write tensors to `path`, one at a time.

    Args:
      path: the file.
      dtype: of every tensor.
      shapes: name -> shape as stored, in the order of `tensors`.
      tensors: arrays of those shapes.
    """
    # transformers reads only files that name a framework.
    header: dict[str, dict] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        stop = offset + math.prod(shape) * np.dtype(dtype).itemsize
        header[name] = {"dtype": code_of(dtype), "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # The disk is slower than the preparation of tensors, so it writes in the background and not only at the end.
    behind: Future[None] | None = None
    written = 0
    with open(path, "wb") as file, ThreadPoolExecutor(1) as disk:
        file.write(struct.pack("<Q", len(text)) + text)
        for (name, shape), tensor in zip(shapes.items(), tensors, strict=True):
            if tensor.shape != shape or tensor.dtype != dtype:
                raise ValueError(f"{name} is {tensor.dtype}{tensor.shape}, announced as {dtype}{shape}")
            written += file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            if written >= SYNCED and (behind is None or behind.done()):
                _finish(behind)
                behind, written = disk.submit(os.fsync, file.fileno()), 0
        # A preempted machine must not find a complete name on incomplete bytes.
        file.flush()
        _finish(behind)
        os.fsync(file.fileno())


def _finish(behind: Future[None] | None) -> None:
    """Wait for the background write and raise its error, which would otherwise be lost."""
    if behind is not None:
        behind.result()
