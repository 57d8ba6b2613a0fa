"""Text on the page: completions with the target's terms marked, a passage with its labels and its probabilities."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxforget.report.artefacts import Completion, Passage, Question, model_order
from jaxforget.report.dynamics import plain
from jaxforget.report.tones import figure

PASSAGE_TOKENS = 600
HEAT_TOKENS = 220
HEAT_MODELS = ("base", "unlearned", "control")
SHADES = 10  # of the heat map
TERMS = 4000  # of the dictionary that are searched for
SENTENCE_END = (".", "!", "?", "…", '"', "”", "’", ")")
QUESTIONS = 400


def cut_at_word(text: str) -> str:
    """Return a text that generation stopped after a number of tokens, without the word that it may have cut.

    A text that ends with a sentence's end is complete; otherwise the last word is replaced by an ellipsis.
    """
    trimmed = text.strip()
    if not trimmed or trimmed.endswith(SENTENCE_END):
        return trimmed
    space = max(trimmed.rfind(" "), trimmed.rfind("\n"))
    return f"{trimmed[:space].rstrip()} …" if space > 0 else trimmed


def term_pattern(terms: Iterable[str]) -> re.Pattern[str] | None:
    """Return a pattern that finds any of the terms as whole words, longer terms first; None without terms."""
    found = sorted({term for term in terms if term.strip()}, key=lambda term: (-len(term), term))[:TERMS]
    if not found:
        return None
    return re.compile("|".join(rf"(?<!\w){re.escape(term)}(?!\w)" for term in found))


def marked(text: str, pattern: re.Pattern[str] | None) -> list[tuple[str, bool]]:
    """Return the text in pieces: (piece, True for a term of the target)."""
    pieces, end = [], 0
    for match in pattern.finditer(text) if pattern else ():
        pieces += [(text[end : match.start()], False), (match[0], True)]
        end = match.end()
    return [piece for piece in [*pieces, (text[end:], False)] if piece[0]]


def completions(prompts: Sequence[Completion] | None, terms: Iterable[str]) -> list[dict[str, Any]] | None:
    """Return each prompt with its continuations: base and unlearned opposed, the other models after them."""
    if prompts is None:
        return None
    pattern = term_pattern(terms)
    found = []
    for item in prompts:
        texts = {m: marked(cut_at_word(item.completions[m]), pattern) for m in model_order(item.completions)}
        main = [m for m in texts if m == "base" or m.split(": ")[-1] == "unlearned"] or list(texts)[:2]
        found.append(
            {
                "prompt": item.prompt,
                "main": [(m, texts[m]) for m in main],
                "others": [(m, texts[m]) for m in texts if m not in main],
            }
        )
    return found


def passage(found: Passage | None) -> dict[str, Any] | None:
    """Return each token above its label: the label of the position before it."""
    if found is None:
        return None
    words, label = [], None
    for token in found.tokens[:PASSAGE_TOKENS]:
        text = plain(token.text)
        below = None if label is None else plain(label)
        words.append(
            {
                **piece(text),
                "label": None if below is None else below.strip() or ("⏎" if "\n" in below else "·"),
                "same": below is not None and below.strip() == text.strip(),
                "anchor": token.anchor,
            }
        )
        label = token.label
    return {
        "document": found.document,
        "words": words,
        "left_out": max(0, len(found.tokens) - PASSAGE_TOKENS),
    }


def heat(found: Passage | None) -> dict[str, Any] | None:
    """Return the passage once a model, each token with its probability and its shade; None where there are none."""
    if found is None:
        return None
    tokens = found.tokens[:HEAT_TOKENS]
    models = [m for m in HEAT_MODELS if any(m in token.probability for token in tokens)]
    if not models:
        return None
    maps = []
    for model in models:
        words = []
        for token in tokens:
            p = token.probability.get(model)
            shade = 0 if p is None else min(int(p * SHADES + 0.5), SHADES)
            words.append({**piece(plain(token.text)), "shade": shade, "p": "" if p is None else figure(p)})
        maps.append((model, words))
    return {"document": found.document, "maps": maps, "left_out": max(0, len(found.tokens) - HEAT_TOKENS)}


def piece(text: str) -> dict[str, Any]:
    """Return a token as {"text": what is shown, "space": True after a space, "break": True before a new line}."""
    shown = text.strip() or ("⏎" if "\n" in text else "·")
    return {"text": shown, "space": text[:1].isspace(), "break": "\n" in text}


def questions(found: Sequence[Question] | None) -> dict[str, Any] | None:
    """Return every question with the probability of its answer under each model."""
    if not found:
        return None
    models = model_order(model for question in found for model in question.probability)
    rows = []
    for question in found[:QUESTIONS]:
        cells = [question.probability.get(model) for model in models]
        rows.append(
            {
                "kind": question.kind,
                "prompt": question.prompt,
                "answer": question.answer.strip(),
                "cells": [(p, "" if p is None else figure(p)) for p in cells],
            }
        )
    return {"models": models, "rows": rows, "left_out": max(0, len(found) - QUESTIONS)}
