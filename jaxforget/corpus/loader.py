"""Prepared blocks as batches: every batch a pure function of (seed, step), read ahead by grain's threads."""

import contextlib
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.corpus.rows import ALTERNATES
from jaxforget.errors import UserError
from jaxforget.files import read_json

_STEPS = 2**40  # "endless": a grain source needs a length
_FORGET, _RETAIN = 2, 3  # tags that keep the two shuffles' generators apart


def read_summary(folder: str | Path) -> dict[str, Any]:
    """What `blocks.json` of a prepared folder says."""
    path = Path(folder) / "blocks.json"
    if not path.is_file():
        raise UserError(f"{folder}: holds no prepared blocks (no blocks.json); run jaxforget prepare first")
    return read_json(path)


def open_blocks(folder: str | Path, split: str) -> Sequence[dict[str, Any]]:
    """The records of a split, by number, in order, unpadded; an empty sequence for a split without any."""
    import tensorflow_datasets as tfds

    splits = read_summary(folder)["splits"]
    if split not in splits:
        raise UserError(f"{folder}: no split {split!r}; it has {', '.join(splits)}")
    if not splits[split]:
        return []
    data = next(Path(folder).glob("*/*/features.json"), None)
    if data is None:
        raise UserError(f"{folder}: its records are missing; run jaxforget prepare again")
    folder = Path(folder)
    with _told(folder):
        return _Records(tfds.builder_from_directory(data.parent).as_data_source(split), folder)


class _Records(Sequence):
    """The records of a split; what is damaged is told in a line."""

    def __init__(self, source: Any, folder: Path):
        self._source, self._folder = source, folder

    def __len__(self) -> int:
        with _told(self._folder):
            return len(self._source)

    def __getitem__(self, number: int) -> dict[str, Any]:
        with _told(self._folder):
            return self._source[number]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __getitems__(self, numbers: Sequence[int]) -> Sequence[dict[str, Any]]:
        with _told(self._folder):
            return self._source.__getitems__(numbers)


@contextlib.contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Damage that the record reader meets, as a line that names the folder and the mend."""
    try:
        yield
    except RuntimeError as error:
        fault = str(error).partition("\n")[0].partition(";")[0]
        raise UserError(f"{folder}: its records are damaged ({fault}); delete it and run jaxforget prepare") from None


def steps_per_epoch(folder: str | Path, split: str, batch_size: int) -> int:
    """Batches of `batch_size` blocks that cover the split once (the last may run into the next epoch)."""
    return math.ceil(read_summary(folder)["splits"][split] / batch_size)


def make_batches(
    folder: str | Path,
    split: str,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    process_index: int = 0,
    process_count: int = 1,
    start: int = 0,
    retain_folder: str | Path | None = None,
    retain_rows: int = 0,
    labels: np.ndarray | None = None,
) -> Any:
    """An endless grain iterator of batches, with `get_state()`, `set_state()` and `close()`.

    Batch k holds rows [k·B, (k+1)·B) of the epochs laid end to end, each shuffled anew, so it depends on
    nothing but (seed, k): to resume at step k, pass `start=k`. With `retain_folder`, `retain_rows` rows of
    its train split, from a stream of their own, are spread evenly among the `batch_size` rows, so that a
    microbatch or a device's slice gets its share. Each process reads only its own contiguous rows.

    Returns:
      Iterator of dicts: tokens [B,S], translated [B,S'], position_map [B,S] (-1 = untrained), suppress_ids
      and suppress_from [B,K] (-1 = padding), all int32; weights [B,S] and retain [B], float32. Here B is
      (batch_size + retain_rows) / process_count; the widths are those of blocks.json (the larger of two).
      With `labels` (int32 [blocks, S], one row a block of `folder`) also labels [B,S], -1 on retain rows.

    Raises:
      UserError: an empty split, or rows that the processes cannot share equally.
    """
    import grain

    if seed < 0 or start < 0:
        raise UserError(f"seed and start must not be negative; they are {seed} and {start}")
    if batch_size < 1 or retain_rows < 0:
        raise UserError(f"batch_size must be at least 1 and retain_rows 0; they are {batch_size} and {retain_rows}")
    if retain_rows and retain_folder is None:
        raise UserError(f"retain_rows: {retain_rows} without retain text; name a retain corpus")
    total = batch_size + retain_rows
    if total % process_count:
        raise UserError(f"batch: {total} rows cannot be shared equally by {process_count} processes")
    streams = [_Stream(folder, split, batch_size, seed, shuffle, _FORGET)]
    if retain_rows:
        streams.append(_Stream(retain_folder, "train", retain_rows, seed, shuffle, _RETAIN))
    share = total // process_count
    slots = _interleave(batch_size, retain_rows)[process_index * share : (process_index + 1) * share]
    dataset = grain.MapDataset.source(_Batches(streams, slots, labels)).to_iter_dataset(
        grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)
    )
    iterator = iter(dataset)
    iterator.set_state({"next_index": start})
    return iterator


def read_all(folder: str | Path, split: str, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """The split once, in order, in batches as `collate` makes them: B = `batch_size`, the last one filled with rows of
    weight 0."""
    summary = read_summary(folder)
    source = open_blocks(folder, split)
    for first in range(0, len(source), batch_size):
        numbers = range(first, min(first + batch_size, len(source)))
        yield collate(source.__getitems__(list(numbers)), [summary], batch_size)


def collate(
    records: Sequence[Mapping[str, Any]], summaries: Sequence[Mapping[str, Any]], rows: int | None = None
) -> dict[str, np.ndarray]:
    """Return records padded on the right to the largest widths of `summaries`, and to `rows` rows of weight 0.

    Returns:
      tokens, position_map int32 [B, S], translated int32 [B, S'], suppress_ids, suppress_from int32 [B, K] (-1 =
      padding, of position_map not trained), weights fp32 [B, S] and retain fp32 [B]. Where one of `summaries` is of
      questions, also answer fp32 [B, S] (1 = a token that counts; every token of a text does), and where they have
      alternative answers alternate int32 [B, S], alternate_weights and alternate_answer fp32 [B, S].
    """
    rows = len(records) if rows is None else rows
    widths = {name: max(summary[name] for summary in summaries) for name in ("length", "translated_length", "suppress")}
    length, pad = widths["length"], summaries[0]["pad_id"]
    batch = {
        "tokens": np.full((rows, length), pad, np.int32),  # [B, S]
        "translated": np.full((rows, widths["translated_length"]), pad, np.int32),  # [B, S']
        "position_map": np.full((rows, length), -1, np.int32),
        "suppress_ids": np.full((rows, widths["suppress"]), -1, np.int32),  # [B, K]
        "suppress_from": np.full((rows, widths["suppress"]), -1, np.int32),
        "weights": np.zeros((rows, length), np.float32),
    }
    if any(summary.get("answer_tokens") for summary in summaries):
        batch["answer"] = np.zeros((rows, length), np.float32)
        # In every column, because `weights` marks the tokens of a text.
        batch["answer"][[row for row, record in enumerate(records) if "answer" not in record]] = 1
    if any(summary.get("alternates") for summary in summaries):
        batch["alternate"] = np.full((rows, length), pad, np.int32)
        batch |= {name: np.zeros((rows, length), np.float32) for name in ALTERNATES[1:]}
    for row, record in enumerate(records):
        for name, array in batch.items():
            if name in record:
                array[row, : len(record[name])] = record[name]
    batch["retain"] = np.zeros(rows, np.float32)  # [B]
    batch["retain"][: len(records)] = [record["retain"] for record in records]
    return batch


class _Stream:
    """One folder's blocks as an endless stream of which every step takes the next `rows`."""

    def __init__(self, folder: str | Path, split: str, rows: int, seed: int, shuffle: bool, tag: int):
        self.summary = read_summary(folder)
        self.source = open_blocks(folder, split)
        if not len(self.source):
            raise UserError(f"{folder}: the split {split!r} has no blocks; give more text")
        self._rows, self._seed, self._shuffle, self._tag = rows, seed, shuffle, tag

    def number(self, step: int, row: int) -> int:
        """The block that is row `row` of step `step`."""
        epoch, place = divmod(step * self._rows + row, len(self.source))
        return int(_order(len(self.source), self._seed, epoch, self._tag)[place]) if self._shuffle else place


@functools.lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int, tag: int) -> np.ndarray:
    """One epoch's order; a pure function, kept for the steps of that epoch."""
    return np.random.default_rng((seed, epoch, tag)).permutation(size)


class _Batches:
    """A random-access source whose element k is this process's rows of batch k."""

    def __init__(self, streams: Sequence[_Stream], slots: Sequence[tuple[int, int]], labels: np.ndarray | None):
        self._streams, self._slots, self._labels = streams, slots, labels

    def __len__(self) -> int:
        return _STEPS

    def __repr__(self) -> str:
        return f"Batches(rows={len(self._slots)})"

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        records: list[Any] = [None] * len(self._slots)
        for which, stream in enumerate(self._streams):
            mine = [at for at, (owner, _) in enumerate(self._slots) if owner == which]
            numbers = [stream.number(step, self._slots[at][1]) for at in mine]
            for at, record in zip(mine, stream.source.__getitems__(numbers) if numbers else [], strict=True):
                records[at] = record
        batch = collate(records, [stream.summary for stream in self._streams])
        if self._labels is not None:
            batch["labels"] = np.full_like(batch["tokens"], -1)
            for at, (owner, row) in enumerate(self._slots):
                if owner == 0:
                    cached = self._labels[self._streams[0].number(step, row)]
                    batch["labels"][at, : len(cached)] = cached
        return batch


def _interleave(forget: int, retain: int) -> list[tuple[int, int]]:
    """Each row of a global batch as (stream, row of that stream), the retain rows spread evenly.

    Row i is a retain row where the running share of retain rows passes the next whole number, so any run of
    rows holds its share to within one row, and exactly where its length makes that share whole.
    """
    total = forget + retain
    slots = []
    for row in range(total):
        before, after = row * retain // total, (row + 1) * retain // total
        slots.append((1, before) if after > before else (0, row - before))
    return slots
