"""Blocks on disk: a tensorflow-datasets builder in ArrayRecord form, with a summary in blocks.json."""

import contextlib
import io
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxforget.corpus.dictionary import Finder
from jaxforget.corpus.text import Document
from jaxforget.corpus.tokens import cut_blocks, tokenize
from jaxforget.corpus.translate import Translation, Translator, block_rng
from jaxforget.errors import UserError
from jaxforget.files import atomic_folder, write_json

DATASET, VERSION = "blocks", "1.0.0"
REACH = 64  # tokens behind an anchor that count as within its reach


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Writes ready-made records; the order of writing is the order of reading."""

    VERSION = tfds.core.Version(VERSION)
    name = DATASET
    # Else the library searches the package for a checksum file, through a module that it does not declare.
    code_path = None

    def __init__(self, records: dict[str, Iterator[dict[str, Any]]], **kwargs: Any):
        self._records = records
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        row = {
            name: tfds.features.Tensor(shape=(None,), dtype=np.int32)
            for name in ("tokens", "translated", "position_map", "suppress_ids", "suppress_from")
        }
        row["weights"] = tfds.features.Tensor(shape=(None,), dtype=np.float32)
        row["retain"] = tfds.features.Scalar(dtype=np.int32)
        # `self.dataset_info_from_configs` looks for the package's own files and fails here.
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(row), disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        return {split: self._generate_examples(split) for split in self._records}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        return enumerate(self._records[split])


def prepare_blocks(
    folder: str | Path,
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    length: int = 512,
    mode: str = "document",
    holdout: float = 0.05,
    seed: int = 0,
    translator: Translator | None = None,
    retain: bool = False,
) -> dict[str, Any]:
    """Cuts, translates and writes blocks into `folder`, whole or not at all; returns what `blocks.json` says.

    Args:
      folder: replaced if it exists.
      documents: the texts, in order.
      tokenizer: a transformers tokenizer.
      length: tokens in a block, S.
      mode: "document" or "paper" (METHOD.md §5).
      holdout: fraction of blocks kept for validation, rounded; drawn by `seed`. Training keeps one at least.
      seed: of the held-out blocks and, with the block's number, of each block's translations.
      translator: None for text that stays as it is: `translated` is then `tokens` and the map the identity.
      retain: marks every row as a retain row.

    blocks.json: `length`, `translated_length` and `suppress` are the static widths S, S' and K that batches
    are padded to; `splits` counts blocks; `tokens` real tokens; `trained` positions with a label.
    """
    if not 0 <= holdout < 1:
        raise UserError(f"holdout: {holdout} is not a fraction; give at least 0 and less than 1")
    if seed < 0:
        raise UserError(f"seed: {seed} is negative; give 0 or more")
    tally = _Tally(translator)
    blocks, count = cut_blocks(tally.read(documents), tokenizer, length=length, mode=mode)
    held = min(round(holdout * len(blocks)), len(blocks) - 1)
    order = np.random.default_rng((seed, 0, 1)).permutation(len(blocks))
    # An empty split cannot be written: blocks.json counts it as 0.
    splits = {"train": np.sort(order[held:]), "validation": np.sort(order[:held])}
    records = {
        split: _records(blocks, numbers, translator, seed, retain, tally)
        for split, numbers in splits.items()
        if len(numbers)
    }
    with atomic_folder(folder) as partial:
        # The library reports on both streams, and its progress means nothing to a user here.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            _Builder(records, data_dir=partial).download_and_prepare()
        shutil.rmtree(partial / "downloads", ignore_errors=True)
        summary = {
            "length": length,
            "translated_length": _round_up(tally.longest, 128 if length >= 512 else 16),
            "suppress": _round_up(max(tally.suppressed, 1), 8),
            "splits": {split: len(numbers) for split, numbers in splits.items()},
            "tokens": sum(map(len, blocks)),
            "trained": tally.trained,
            "highest_id": max(tally.highest, max(int(block.max()) for block in blocks)),
            "documents": count,
            "pad_id": _pad_id(tokenizer),
            "bos_id": tokenizer.bos_token_id,
            "mode": mode,
            "holdout": holdout,
            "seed": seed,
            "retain": retain,
            "anchors": tally.anchors(),
            "anchor_first_tokens": [] if translator is None else list(translator.first_tokens),
        }
        write_json(partial / "blocks.json", summary)
    return summary


class _Tally:
    """What only the translation of every block can tell, gathered while the records are written."""

    def __init__(self, translator: Translator | None):
        self._translator = translator
        self._counts = np.zeros(0 if translator is None else len(translator.keys), np.int64)
        self.highest = -1
        self._in_text: Counter[str] = Counter()
        self.longest = self.suppressed = self.trained = self._positions = self._reached = 0

    def read(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield the documents, counting the anchors in their text."""
        finder = None if self._translator is None else Finder(self._translator.keys, self._translator.longest)
        for document in documents:
            if finder is not None:
                self._in_text.update(finder.count(document.text))
            yield document

    def add(self, block: Translation) -> None:
        """Counts one translated block."""
        self.longest = max(self.longest, len(block.translated))
        self.highest = max(self.highest, int(block.translated.max()))
        self.suppressed = max(self.suppressed, len(block.suppress_ids))
        self.trained += int((block.position_map >= 0).sum())
        if len(block.spans):
            np.add.at(self._counts, block.spans[:, 2], 1)
        self._positions += len(block.position_map)
        self._reached += int(within_reach(len(block.position_map), block.spans).sum())

    def anchors(self) -> dict[str, Any]:
        """Return how often the keys matched, how far they reach, and what was missed.

        "missed": key -> occurrences in the text that no tokens matched: a block's end or a gap divides them, or the
        tokenizer spells them otherwise.
        """
        if self._translator is None:
            return {"keys": 0, "occurrences": 0, "counts": {}, "missed": {}, "coverage": 0.0, "notes": []}
        counts = dict(zip(self._translator.keys, self._counts.tolist(), strict=True))
        missed = {key: count - counts[key] for key, count in self._in_text.items() if count > counts[key]}
        return {
            "keys": len(self._translator.keys),
            "occurrences": int(self._counts.sum()),
            "counts": counts,
            "missed": dict(sorted(missed.items(), key=lambda pair: -pair[1])),
            "coverage": self._reached / max(self._positions, 1),
            "notes": list(self._translator.notes),
        }


def within_reach(length: int, spans: np.ndarray) -> np.ndarray:
    """Which of a block's `length` positions have an anchor (spans, as `Translation.spans`) not far before; bool [n]."""
    marks = np.zeros(length + 1, np.int64)
    if len(spans):
        begins = spans[:, 0]
        np.add.at(marks, begins, 1)
        np.add.at(marks, np.minimum(begins + spans[:, 1] + REACH, length), -1)
    return np.cumsum(marks)[:length] > 0


def count_anchors(documents: Iterable[Document], tokenizer: Any, translator: Translator) -> dict[str, int]:
    """How often each key of `translator` would match in a text that is not to be translated."""
    counts = np.zeros(len(translator.keys), np.int64)
    for document in documents:
        np.add.at(counts, translator.matches(tokenize(tokenizer, document.text)), 1)
    return dict(zip(translator.keys, counts.tolist(), strict=True))


def _records(
    blocks: Sequence[np.ndarray],
    numbers: np.ndarray,
    translator: Translator | None,
    seed: int,
    retain: bool,
    tally: _Tally,
) -> Iterator[dict[str, Any]]:
    """The rows of one split, unpadded."""
    for number in numbers.tolist():
        tokens = blocks[number]
        if translator is None:
            none = np.zeros(0, np.int32)
            identity = np.arange(len(tokens), dtype=np.int32)
            block = Translation(tokens, identity, none, none, none.reshape(0, 3))
        else:
            block = translator.translate(tokens, block_rng(seed, number))
        tally.add(block)
        yield {
            "tokens": tokens,
            "translated": block.translated,
            "position_map": block.position_map,
            "suppress_ids": block.suppress_ids,
            "suppress_from": block.suppress_from,
            "weights": np.ones(len(tokens), np.float32),
            "retain": np.int32(retain),
        }


def _pad_id(tokenizer: Any) -> int:
    """What fills rows behind their last token; any id would do, since no position there has weight."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
