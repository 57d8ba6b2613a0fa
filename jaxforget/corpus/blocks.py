"""Blocks on disk: a tensorflow-datasets builder with ArrayRecord files, and a summary in blocks.json."""

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
from jaxforget.corpus.rows import ALTERNATES, Row, cut_rows
from jaxforget.corpus.text import Document
from jaxforget.corpus.tokens import tokenize
from jaxforget.corpus.translate import Translation, Translator, block_rng
from jaxforget.corpus.translations import COLUMNS, Sampler, Translations
from jaxforget.errors import UserError
from jaxforget.files import atomic_folder, write_json

DATASET, VERSION = "blocks", "1.0.0"
REACH = 64  # tokens after an anchor that count towards the coverage
INTEGERS = ("tokens", "translated", "position_map", "suppress_ids", "suppress_from")


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builder that writes given records and keeps their order."""

    VERSION = tfds.core.Version(VERSION)
    name = DATASET
    # Without this the library searches the package for a checksum file, through a module that it does not declare.
    code_path = None

    def __init__(
        self,
        records: dict[str, Iterator[dict[str, Any]]],
        integers: Sequence[str],
        floats: Sequence[str],
        **kwargs: Any,
    ):
        self._records, self._integers, self._floats = records, integers, floats
        super().__init__(file_format="array_record", **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        row = {name: tfds.features.Tensor(shape=(None,), dtype=np.int32) for name in self._integers}
        row |= {name: tfds.features.Tensor(shape=(None,), dtype=np.float32) for name in self._floats}
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
    sampler: Sampler | None = None,
    retain: bool = False,
    template: str = "plain",
    alternates: Sequence[str] = (),
) -> dict[str, Any]:
    """Cut and translate a text and write the blocks into `folder`, completely or not at all.

    Args:
      folder: the folder to write; an existing one is replaced.
      documents: the texts or questions, in order.
      tokenizer: a transformers tokenizer.
      length: tokens of a block, S.
      mode: "document" or "paper" (METHOD.md §5).
      holdout: fraction of the blocks that are held out for validation, rounded; at least one block stays for training.
      seed: seed of the choice of held-out blocks and, with the block's number, of each block's translation.
      translator: translates the blocks; None leaves the text as it is, with `translated` equal to `tokens` and the
        identity as position map.
      sampler: draws further translations of each block; None writes the single one only.
      retain: True marks every row as a retain row.
      template: form of the questions, "plain" or "chat".
      alternates: alternative answers, of which one is drawn for every question.

    Returns:
      The content of blocks.json:
        length, translated_length, suppress: the widths S, S' and K to which batches are padded.
        translations, translations_length, moved: the widths N, S' and K of further translations, or 0.
        splits: split -> its number of blocks.
        tokens, documents: the numbers of tokens and of documents.
        trained: the number of positions with a label.
        answer_tokens: the number of tokens of answers; 0 for a text.
        alternates: the number of rows with an alternative answer.
        cut: the number of rows whose answer does not fit.
        longest: the number of tokens of the longest row.
        highest_id: the largest token id in any column; a model needs an embedding for it.
        pad_id, bos_id: the ids that pad rows and begin a document; bos_id is None where the tokenizer has none.
        mode, holdout, seed, retain: the arguments.
        anchors: {"keys", "occurrences"}: the numbers of keys and of their matches; "counts": key -> its matches;
          "missed": key -> its occurrences in the text that match no tokens; "coverage": the share of positions in or
          shortly after an anchor; "notes": notes of the translator.
        anchor_first_tokens: the first tokens of all anchors in every spelling.
        term_tokens: those of them that begin an anchor in at least half of their occurrences in the text.

    Raises:
      UserError: `holdout`, `seed`, `length` or `mode` is invalid, or there is too little text.
    """
    if not 0 <= holdout < 1:
        raise UserError(f"holdout: {holdout} must be at least 0 and less than 1")
    if seed < 0:
        raise UserError(f"seed: {seed} must be at least 0")
    tally = _Tally(translator)
    documents = tally.read(documents)
    given = {"length": length, "mode": mode, "template": template, "alternates": alternates, "seed": seed}
    blocks, count = cut_rows(documents, tokenizer, **given)
    asks, replies = blocks[0].answer is not None, any(block.alternate is not None for block in blocks)
    held = min(round(holdout * len(blocks)), len(blocks) - 1)
    order = np.random.default_rng((seed, 0, 1)).permutation(len(blocks))
    # The library cannot write an empty split; blocks.json then has 0 blocks for it.
    splits = {"train": np.sort(order[held:]), "validation": np.sort(order[:held])}
    records = {
        split: _records(blocks, numbers, translator, sampler, seed, retain, replies, tally)
        for split, numbers in splits.items()
        if len(numbers)
    }
    with atomic_folder(folder) as partial:
        # The library prints its progress on both streams, which would only confuse here.
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            integers = [*INTEGERS, *(ALTERNATES[:1] if replies else ()), *(COLUMNS if sampler is not None else ())]
            floats = ["weights", *(["answer"] if asks else ()), *(ALTERNATES[1:] if replies else ())]
            _Builder(records, integers, floats, data_dir=partial).download_and_prepare()
        shutil.rmtree(partial / "downloads", ignore_errors=True)
        summary = {
            "length": length,
            "translated_length": _round_up(tally.longest, 128 if length >= 512 else 16),
            "suppress": _round_up(max(tally.suppressed, 1), 8),
            "translations": 0 if sampler is None else sampler.count,
            "translations_length": _round_up(tally.longest_of_many, 128 if length >= 512 else 16),
            "moved": _round_up(max(tally.moved, 1), 8) if sampler is not None else 0,
            "splits": {split: len(numbers) for split, numbers in splits.items()},
            "tokens": sum(len(block.tokens) for block in blocks),
            "answer_tokens": sum(int(block.answer.sum()) for block in blocks) if asks else 0,
            "alternates": sum(block.alternate is not None for block in blocks),
            "cut": sum(block.cut or (block.alternate is not None and block.alternate.cut) for block in blocks),
            "longest": max(len(block.tokens) for block in blocks),
            "trained": tally.trained,
            "highest_id": tally.highest,
            "documents": count,
            "pad_id": _pad_id(tokenizer),
            "bos_id": tokenizer.bos_token_id,
            "mode": mode,
            "holdout": holdout,
            "seed": seed,
            "retain": retain,
            "anchors": tally.anchors(),
            "anchor_first_tokens": [] if translator is None else list(translator.first_tokens),
            "term_tokens": tally.term_tokens(),
        }
        write_json(partial / "blocks.json", summary)
    return summary


class _Tally:
    """Statistics of the translated blocks, collected while the records are written."""

    def __init__(self, translator: Translator | None):
        self._translator = translator
        self._counts = np.zeros(0 if translator is None else len(translator.keys), np.int64)
        self.highest = -1
        self._in_text: Counter[str] = Counter()
        # Derived once: the translator collects them from all of its rules.
        self._first_tokens = [] if translator is None else list(translator.first_tokens)
        self._first: Counter[int] = Counter()
        self._begins: Counter[int] = Counter()
        self.longest = self.suppressed = self.trained = self._positions = self._reached = 0
        self.longest_of_many = self.moved = 0

    def read(self, documents: Iterable[Document]) -> Iterator[Document]:
        """Yield the documents and count the anchors in their text."""
        finder = None if self._translator is None else Finder(self._translator.keys, self._translator.longest)
        for document in documents:
            if finder is not None:
                self._in_text.update(finder.count(document.text))
            yield document

    def add(self, row: Row, block: Translation, many: Translations | None) -> None:
        """Count one row and its translations."""
        self.longest = max(self.longest, len(block.translated))
        others = [] if row.alternate is None else [row.alternate.tokens]
        trained = block.position_map >= 0
        if many is not None:
            self.longest_of_many = max(self.longest_of_many, many.translations.shape[1])
            self.moved = max(self.moved, len(many.moved_to))
            others.append(many.translations)
            trained = many.position_maps[0] >= 0
        self.highest = max(self.highest, *(int(ids.max()) for ids in (block.translated, row.tokens, *others)))
        self.suppressed = max(self.suppressed, len(block.suppress_ids))
        self.trained += int((trained if row.answer is None else trained[:-1] & (row.answer[1:] > 0)).sum())
        self._first.update(row.tokens[np.isin(row.tokens, self._first_tokens)].tolist())
        if len(block.spans):
            np.add.at(self._counts, block.spans[:, 2], 1)
            self._begins.update(row.tokens[block.spans[:, 0]].tolist())
        self._positions += len(block.position_map)
        self._reached += int(within_reach(len(block.position_map), block.spans).sum())

    def term_tokens(self) -> list[int]:
        """Return the first tokens of anchors that begin one in at least half of their occurrences, ascending.

        A first token such as "The" mostly occurs as an ordinary word, so its prediction does not show whether a model
        knows the text.
        """
        return sorted(token for token, count in self._first.items() if 2 * self._begins[token] >= count)

    def anchors(self) -> dict[str, Any]:
        """Return the keys' matches, their coverage, and the missed occurrences.

        "missed" is key -> its occurrences in the text that matched no tokens. A block's end or a gap divides them, or
        the tokenizer splits them differently there.
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
    """Return the positions of a block that are in an anchor or at most `REACH` tokens after it.

    Args:
      length: tokens of the block, n.
      spans: int32 [a, 3], as `Translation.spans`.

    Returns:
      bool [n].
    """
    marks = np.zeros(length + 1, np.int64)
    if len(spans):
        begins = spans[:, 0]
        np.add.at(marks, begins, 1)
        np.add.at(marks, np.minimum(begins + spans[:, 1] + REACH, length), -1)
    return np.cumsum(marks)[:length] > 0


def count_anchors(documents: Iterable[Document], tokenizer: Any, translator: Translator) -> dict[str, int]:
    """Return key -> its number of matches in a text that is not translated."""
    counts = np.zeros(len(translator.keys), np.int64)
    for document in documents:
        np.add.at(counts, translator.matches(tokenize(tokenizer, document.text)), 1)
    return dict(zip(translator.keys, counts.tolist(), strict=True))


def _records(
    blocks: Sequence[Row],
    numbers: np.ndarray,
    translator: Translator | None,
    sampler: Sampler | None,
    seed: int,
    retain: bool,
    replies: bool,
    tally: _Tally,
) -> Iterator[dict[str, Any]]:
    """Yield the unpadded rows of one split, with alternative answers if `replies`."""
    for number in numbers.tolist():
        row, tokens = blocks[number], blocks[number].tokens
        if translator is None:
            none = np.zeros(0, np.int32)
            identity = np.arange(len(tokens), dtype=np.int32)
            block = Translation(tokens, identity, none, none, none.reshape(0, 3))
        else:
            block = translator.translate(tokens, block_rng(seed, number))
        many = None if sampler is None else sampler.sample(tokens, seed, number)
        tally.add(row, block, many)
        record = {
            "tokens": tokens,
            "translated": block.translated,
            "position_map": block.position_map,
            "suppress_ids": block.suppress_ids,
            "suppress_from": block.suppress_from,
            "weights": np.ones(len(tokens), np.float32),
            "retain": np.int32(retain),
            **({} if many is None else many.columns()),
        }
        if row.answer is not None:
            record["answer"] = row.answer
        if replies:
            # A row of no tokens has no weight in a batch.
            other = row.alternate or Row(np.zeros(0, np.int32), np.zeros(0, np.float32))
            weights = np.ones(len(other.tokens), np.float32)
            record |= dict(zip(ALTERNATES, (other.tokens, weights, other.answer), strict=True))
        yield record


def _pad_id(tokenizer: Any) -> int:
    """Return the id that pads rows; any id is correct, because no padded position has a weight."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
