"""Token ids of texts that a model continues or scores."""

from collections.abc import Sequence
from typing import Any


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    """Return the token ids of `text`, opened but never closed by special tokens.

    The tokenizer's own opening tokens (BOS) are kept. Tokens that it appends (an end token, where the tokenizer was
    saved with `add_eos_token`) are removed: after an end token a model starts another text, so a closed prompt is not
    continued, and an end token would count as part of an answer.

    Args:
      tokenizer: a transformers tokenizer.
      text: the prompt, or a text to score.
    """
    return encode_prompts(tokenizer, [text])[0]


def encode_prompts(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return `encode_prompt` of every text, tokenized in one call."""
    if not texts:
        return []
    closing = _closing_tokens(tokenizer, texts[0] or "a")
    encoded = tokenizer(list(texts))["input_ids"]
    return [list(ids[: len(ids) - closing]) for ids in encoded]


def _closing_tokens(tokenizer: Any, text: str) -> int:
    """Return the number of special tokens that the tokenizer appends to a text."""
    whole = list(tokenizer([text])["input_ids"][0])
    plain = list(tokenizer([text], add_special_tokens=False)["input_ids"][0])
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return len(whole) - start - len(plain)
    return 0
