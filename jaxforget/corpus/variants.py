"""Token ids of a string inside running text, for any tokenizer, verified by decoding (METHOD.md §3).

A tokenizer gives a word different ids after a space and after a newline. The authors' script removes a fixed number of
ids, which fits only Llama 2. Here each string is encoded after a short context, the context's ids are removed, and the
rest must decode to exactly the string.
"""

from collections.abc import Sequence
from typing import Any

VARIANT_NAMES = ("after a space", "after a newline")

# Pairs (context, glue): the ids of `context` are removed, those of `glue` belong to the string. The later contexts are
# for tokenizers that merge the end of an earlier one into the string; all contexts of a variant give the same ids.
_CONTEXTS = (
    (("a", " "), ("the", " "), (".", " ")),
    (("a\n", ""), (".\n", ""), ("\n", ""), ('a "', ""), ("a (", ""), ("a-", "")),
)


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of each text, without special tokens and without a warning about a model's length."""
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]


def decode(tokenizer: Any, ids: Sequence[int]) -> str:
    """Return the text of `ids` with its spaces unchanged."""
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def derive_variants(tokenizer: Any, texts: Sequence[str]) -> dict[str, tuple[tuple[int, ...] | None, ...]]:
    """Return text -> (ids after a space, ids after a newline); None where no context gives ids that decode back."""
    texts = list(dict.fromkeys(texts))
    derived = {text: [None, None] for text in texts}
    for variant, contexts in enumerate(_CONTEXTS):
        missing = texts
        for context, glue in contexts:
            for text, ids in zip(missing, _behind(tokenizer, context, glue, missing), strict=True):
                derived[text][variant] = ids
            missing = [text for text in missing if derived[text][variant] is None]
            if not missing:
                break
    return {text: tuple(ids) for text, ids in derived.items()}


def _behind(tokenizer: Any, context: str, glue: str, texts: Sequence[str]) -> list[tuple[int, ...] | None]:
    """Return the ids of `glue + text` after `context`; None where they merge with it or do not decode back."""
    head, *wholes = encode(tokenizer, [context, *(context + glue + text for text in texts)])
    if not head:
        return [None] * len(texts)
    before = decode(tokenizer, head)
    found = []
    for text, whole in zip(texts, wholes, strict=True):
        clean = len(whole) > len(head) and whole[: len(head)] == head
        clean = clean and decode(tokenizer, whole) == before + glue + text
        found.append(tuple(whole[len(head) :]) if clean else None)
    return found
