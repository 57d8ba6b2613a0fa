"""Prepared blocks as batches. Every batch is a pure function of (seed, step); grain's threads read ahead."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.corpus.rows import ALTERNATES
from jaxforget.corpus.translations import COLUMNS, FILLS
from jaxforget.errors import UserError
from jaxforget.files import read_json

_STEPS = 2**40  # a grain source needs a length, and no run has as many steps
_FORGET, _RETAIN = 2, 3  # tags that make the two shuffles independent


def read_summary(folder: str | Path) -> dict[str, Any]:
    """Return the content of a prepared folder's blocks.json.

    Raises:
      UserError: the file is missing or malformed.
    """
    path = Path(folder) / "blocks.json"
    if not path.is_file():
        raise UserError(f"{folder}: contains no prepared blocks (no blocks.json); run jaxforget prepare first")
    return read_json(path)


def open_blocks(folder: str | Path, split: str) -> Sequence[dict[str, Any]]:
    """Return the unpadded records of a split in order; an empty sequence for an empty split.

    Raises:
      UserError: the folder has no such split, or its records are missing or damaged.
    """
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
    with _reporting(folder):
        return _Records(tfds.builder_from_directory(data.parent).as_data_source(split), folder)


class _Records(Sequence):
    """The records of a split; damage is reported in one line."""

    def __init__(self, source: Any, folder: Path):
        self._source, self._folder = source, folder

    def __len__(self) -> int:
        with _reporting(self._folder):
            return len(self._source)

    def __getitem__(self, number: int) -> dict[str, Any]:
        with _reporting(self._folder):
            return self._source[number]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __getitems__(self, numbers: Sequence[int]) -> Sequence[dict[str, Any]]:
        with _reporting(self._folder):
            return self._source.__getitems__(numbers)


@contextlib.contextmanager
def _reporting(folder: Path) -> Iterator[None]:
    """Convert an error of the record reader to a `UserError` that names the folder and the remedy."""
    try:
        yield
    except RuntimeError as error:
        fault = str(error).partition("\n")[0].partition(";")[0]
        raise UserError(
            f"{folder}: its records are damaged ({fault}); delete the folder and run jaxforget prepare"
        ) from None


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
    """Return an endless grain iterator of batches, with `get_state()`, `set_state()` and `close()`.

    The epochs, each with its own shuffle, form one stream, and batch k is its k-th group of rows. So a batch depends
    only on (seed, k). Retain rows come from a second stream and are spread evenly among the others, so that every
    microbatch and every device has its share. Each process reads only its own contiguous rows.

    Args:
      folder: a prepared folder.
      split: its split.
      batch_size: rows from `folder`, over all processes.
      seed: seed of the shuffles.
      shuffle: False keeps the order of the blocks.
      process_index: this process.
      process_count: number of processes.
      start: step of the first batch; k to resume at step k.
      retain_folder: a prepared folder of retained text, whose train split gives the retain rows.
      retain_rows: retain rows of a batch, over all processes.
      labels: cached labels, int32 [blocks, S], one row for each block of `folder`.

    Returns:
      Iterator of dicts: tokens [B, S], translated [B, S'], position_map [B, S] (-1 = not trained), suppress_ids and
      suppress_from [B, K] (-1 = padding), all int32; weights [B, S] and retain [B], float32. B is (batch_size +
      retain_rows) / process_count. The widths are those of blocks.json, or the larger ones of two folders. Columns of
      questions, of alternative answers and of several translations are added as in `collate`. With `labels` also labels
      int32 [B, S], -1 on retain rows.

    Raises:
      UserError: a negative number, an empty split, or rows that the processes cannot share equally.
    """
    import grain

    if seed < 0 or start < 0:
        raise UserError(f"seed={seed}, start={start}: both must be at least 0")
    if batch_size < 1 or retain_rows < 0:
        raise UserError(
            f"batch_size must be at least 1 and retain_rows at least 0; they are {batch_size} and {retain_rows}"
        )
    if retain_rows and retain_folder is None:
        raise UserError(f"retain_rows={retain_rows}: there is no retained text; give a retain corpus")
    total = batch_size + retain_rows
    if total % process_count:
        raise UserError(f"batch: {total} rows are not divisible by {process_count} processes; give a multiple")
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
    """Yield the split once, in order, in batches of `collate`; rows of weight 0 fill the last one.

    Args:
      folder: a prepared folder.
      split: its split.
      batch_size: rows of a batch, B.
    """
    summary = read_summary(folder)
    source = open_blocks(folder, split)
    for first in range(0, len(source), batch_size):
        numbers = range(first, min(first + batch_size, len(source)))
        yield collate(source.__getitems__(list(numbers)), [summary], batch_size)


def collate(
    records: Sequence[Mapping[str, Any]], summaries: Sequence[Mapping[str, Any]], rows: int | None = None
) -> dict[str, np.ndarray]:
    """Return a batch of records, padded on the right.

    Args:
      records: the rows.
      summaries: blocks.json of the folders; the batch has the largest of their widths.
      rows: rows of the batch; rows of weight 0 fill it. None for as many as there are records.

    Returns:
      tokens and position_map int32 [B, S], translated int32 [B, S'], suppress_ids and suppress_from int32 [B, K],
      weights float32 [B, S] and retain float32 [B]. In position_map -1 is "not trained", in suppress_* padding. If one
      of `summaries` is of questions, also answer float32 [B, S] (1 = a token that counts, as all tokens of a text). If
      they have alternative answers, also alternate int32 [B, S], alternate_weights and alternate_answer float32 [B, S].
      If they have several translations, also the columns of `Translations`, int32 with the axis B before their own; a
      row of another folder is its own translation.
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
    if count := max(summary.get("translations", 0) for summary in summaries):
        batch |= _with_translations(records, summaries, rows, count)
    batch["retain"] = np.zeros(rows, np.float32)  # [B]
    batch["retain"][: len(records)] = [record["retain"] for record in records]
    return batch


def _with_translations(
    records: Sequence[Mapping[str, Any]], summaries: Sequence[Mapping[str, Any]], rows: int, count: int
) -> dict[str, np.ndarray]:
    """Return the columns of `Translations` as arrays of a batch."""
    length = max(summary["length"] for summary in summaries)
    translated = max(length, *(summary.get("translations_length", 0) for summary in summaries))
    moved = max(summary.get("moved", 0) for summary in summaries)
    shapes = ((count, translated), (count, length), (count, moved), (moved,), (moved,))
    batch = {name: np.full((rows, *shape), FILLS[name], np.int32) for name, shape in zip(COLUMNS, shapes, strict=True)}
    for row, record in enumerate(records):
        own = len(record["tokens"])
        if COLUMNS[0] not in record:
            batch["translations"][row, :, :own] = record["tokens"]
            batch["position_maps"][row, :, :own] = np.arange(own)
            continue
        for name in COLUMNS:
            value = np.asarray(record[name])
            value = value.reshape(count, -1) if batch[name].ndim == 3 else value
            batch[name][row, ..., : value.shape[-1]] = value
    return batch


class _Stream:
    """One folder's blocks as an endless stream; every step takes the next `rows` blocks."""

    def __init__(self, folder: str | Path, split: str, rows: int, seed: int, shuffle: bool, tag: int):
        self.summary = read_summary(folder)
        self.source = open_blocks(folder, split)
        if not len(self.source):
            raise UserError(f"{folder}: the split {split!r} has no blocks; give more text")
        self._rows, self._seed, self._shuffle, self._tag = rows, seed, shuffle, tag

    def number(self, step: int, row: int) -> int:
        """Return the number of the block that is row `row` of step `step`."""
        epoch, place = divmod(step * self._rows + row, len(self.source))
        return int(_order(len(self.source), self._seed, epoch, self._tag)[place]) if self._shuffle else place


@functools.lru_cache(maxsize=8)
def _order(size: int, seed: int, epoch: int, tag: int) -> np.ndarray:
    """Return one epoch's order of the blocks; cached for the steps of that epoch."""
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
    """Return (stream, row of that stream) for each row of a global batch; the retain rows are spread evenly.

    Row i is a retain row if the proportional number of retain rows reaches a new whole number at i. So any run of rows
    has its proportional number to within one row, and exactly if that number is whole.
    """
    total = forget + retain
    slots = []
    for row in range(total):
        before, after = row * retain // total, (row + 1) * retain // total
        slots.append((1, before) if after > before else (0, row - before))
    return slots
