"""Tokens of documents, and blocks of tokens (METHOD.md §5)."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jaxforget.corpus.text import Document
from jaxforget.corpus.variants import encode
from jaxforget.errors import UserError

MODES = ("document", "paper")
PIECE = 10_000  # characters that the authors' script reads at a time
# A tokenizer needs some hundred bytes of memory for each character of a call. Windows bound that.
WINDOW = 1_000_000
OVERLAP = 4_000
_AGREE = 16  # tokens on each side of a seam that both windows must agree on


def tokenize(tokenizer: Any, text: str, *, window: int = WINDOW, overlap: int = OVERLAP) -> np.ndarray:
    """Return the token ids of a whole text, the same as one call gives, in bounded memory.

    A long text is tokenised in overlapping windows, which are joined where both give the same tokens. A tokenizer
    without offsets, and text without such a place, are tokenised in one call.

    Args:
      tokenizer: a transformers tokenizer.
      text: the text.
      window: characters of a window.
      overlap: characters that neighbouring windows share.

    Returns:
      int32 [n], without special tokens.
    """
    if len(text) <= window or not getattr(tokenizer, "is_fast", False):
        return np.array(encode(tokenizer, [text])[0], np.int32)
    parts = []
    start = 0
    ids, offsets = _with_offsets(tokenizer, text, 0, window)
    begin = 0  # the tokens of this window before `begin` belong to the previous window
    while start + window < len(text):
        start += window - overlap
        next_ids, next_offsets = _with_offsets(tokenizer, text, start, window)
        seam = _seam(ids, offsets, next_ids, next_offsets)
        if seam is None:
            return np.array(encode(tokenizer, [text])[0], np.int32)
        parts.append(ids[begin : seam[0]])
        ids, offsets, begin = next_ids, next_offsets, seam[1]
    return np.concatenate([*parts, ids[begin:]])


def _with_offsets(tokenizer: Any, text: str, start: int, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids [n] of one window and each token's character range [n, 2] in the whole text."""
    encoded = tokenizer(
        text[start : start + window], add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    return np.array(encoded["input_ids"], np.int32), np.array(encoded["offset_mapping"], np.int64) + start


def _seam(ids, offsets, next_ids, next_offsets) -> tuple[int, int] | None:
    """Return (i, j) near the overlap's middle where the tokens around `ids[i]` and `next_ids[j]` are the same."""
    if not len(next_ids) or not len(ids):
        return None
    middle = (next_offsets[0, 0] + offsets[-1, 1]) // 2
    j = int(np.searchsorted(next_offsets[:, 0], middle))
    for place in range(j, min(j + 200, len(next_ids))):
        i = int(np.searchsorted(offsets[:, 0], next_offsets[place, 0]))
        place = int(np.searchsorted(next_offsets[:, 0], next_offsets[place, 0]))  # the first token at this character
        here, there = slice(i - _AGREE, i + _AGREE), slice(place - _AGREE, place + _AGREE)
        if here.start < 0 or there.start < 0 or here.stop > len(ids) or there.stop > len(next_ids):
            continue
        if (ids[here] == next_ids[there]).all() and (offsets[here] == next_offsets[there]).all():
            return i, place
    return None


def cut_blocks(
    documents: Iterable[Document], tokenizer: Any, *, length: int, mode: str = "document"
) -> tuple[list[np.ndarray], int]:
    """Cut documents into disjoint blocks.

    Mode "document" tokenises each document at once, after one BOS token. The rest of a document is a shorter block, and
    no block contains two documents. Mode "paper" tokenises pieces of 10,000 characters, each after a BOS token, joins
    and cuts them, and drops the rest. A tokenizer without a BOS token adds none.

    Args:
      documents: the texts, in order.
      tokenizer: a transformers tokenizer.
      length: maximal tokens of a block.
      mode: "document" or "paper".

    Returns:
      The blocks, each int32 [n] with n <= `length`, and the number of documents.

    Raises:
      UserError: `mode` or `length` is invalid, or the text fills no block.
    """
    if mode not in MODES:
        raise UserError(f"blocks: {mode!r} is not one of {', '.join(MODES)}")
    if length < 2:
        raise UserError(f"length: {length} must be at least 2")
    blocks: list[np.ndarray] = []
    rest = np.zeros(0, np.int32)
    count = 0
    for document in documents:
        count += 1
        for stream in _streams(document.text, tokenizer, mode):
            stream = np.concatenate([rest, stream])
            whole = len(stream) // length * length
            blocks.extend(stream[:whole].reshape(-1, length))
            rest = stream[whole:]
        if mode == "document" and len(rest):
            blocks.append(rest)
            rest = rest[:0]
    if not count:
        raise UserError("corpus: no documents; give a file or folder that contains text")
    if not blocks:
        raise UserError(
            f"corpus: its {len(rest)} tokens do not fill one block of {length}; "
            "give more text, a smaller length, or blocks.mode=document, which keeps the rest of each document"
        )
    return blocks, count


def _streams(text: str, tokenizer: Any, mode: str) -> Iterator[np.ndarray]:
    """Yield the token ids of a document's pieces, each after its own BOS token."""
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    texts = [text] if mode == "document" else [text[at : at + PIECE] for at in range(0, len(text), PIECE)]
    for piece in texts:
        yield np.concatenate([np.array(bos, np.int32), tokenize(tokenizer, piece)])
