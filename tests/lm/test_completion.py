"""Completions of prompts and the text of a continuation."""

from jaxforget.lm.completion import continuation, shortened
from jaxforget.models.tokenizer import load_tokenizer


def test_a_continuation_keeps_its_first_space(tiny_world):
    tokenizer = load_tokenizer(tiny_world / "base")
    prompt, rest = "Zorvath met", " Quillon near"
    new = tokenizer(prompt + rest)["input_ids"][len(tokenizer(prompt)["input_ids"]) :]
    assert continuation(tokenizer, prompt, new) == rest
    assert continuation(tokenizer, prompt, []) == ""


def test_shortened():
    assert shortened("two\n words") == "two words"
    assert shortened("x" * 41) == "x" * 37 + "..."
