"""A dictionary from a language model: random passages, checked answers and their union (WHP section 2.2)."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic

from jaxforget.anchors.contexts import Context, example, find_contexts
from jaxforget.anchors.extract import Found
from jaxforget.anchors.kinds import KINDS
from jaxforget.anchors.scan import bare
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document
from jaxforget.endpoint import Answer
from jaxforget.endpoint.answers import Messages
from jaxforget.errors import UserError

WINDOW = 3000  # characters of a passage
UNUSABLE = 0.1  # maximal share of unusable answers
LONGEST = 60  # maximal characters of an expression or an alternative, because they are names and terms, not sentences
SYSTEM = "You prepare texts for a study of what language models remember. You answer in JSON only."
ASK = """\
Below is a passage from a text. List the expressions in it that belong to this text alone: names of its people, places
and things, terms that it coined, and ordinary words that have a special part in it. Leave out what any text might say.

For each of them give:
- "expression": exactly as the passage writes it, letter for letter, without "'s" at its end;
- "kind": one of {kinds};
- "alternatives": one to three generic expressions that could stand in its place throughout the text. The passage must
  stay grammatical and make sense; keep number, gender and capitals; use everyday names and words that have nothing to
  do with this text or with any other well-known one. Where an expression is part of a longer name in the list, let the
  parts agree.

Passage:
<<<
{passage}
>>>"""

Text = Annotated[str, pydantic.StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST)]


class Expression(pydantic.BaseModel):
    """One expression that a model names; extra keys are ignored."""

    expression: Text
    kind: str = "thing"
    alternatives: list[Text] = pydantic.Field(min_length=1, max_length=8)


class Expressions(pydantic.BaseModel):
    """An answer about one passage; it may contain no expression."""

    expressions: list[Expression]


# Asks a language model: (questions, maximal number of unusable answers) -> an answer to each, None if unusable.
Ask = Callable[[Sequence[Messages], int], Sequence[Answer | None]]


def find_by_asking(documents: Sequence[Document], ask: Ask, *, calls: int, seed: int, answers: str | Path) -> Found:
    """Return the dictionary that a language model's answers give.

    Args:
      documents: the text.
      ask: sends questions and returns the answers, parsed as `Expressions`.
      calls: number of questions.
      seed: seed of the choice of passages.
      answers: the file of all answers, for the message.

    Raises:
      UserError: no answer names an expression of the text.
    """
    passages = choose_passages(documents, calls, seed)
    given = ask(questions(passages), max(1, int(UNUSABLE * len(passages))))
    anchors, notes = unite(passages, [None if one is None else one.value for one in given], documents)
    if not anchors.entries:
        raise UserError(
            f"anchors: {len(passages)} answers name no expression that the text contains; look at {answers}, or use "
            "another model"
        )
    if unusable := sum(one is None for one in given):
        notes.append(f"{unusable} of {len(passages)} answers are unusable")
    return Found(anchors, tuple(notes))


def choose_passages(documents: Sequence[Document], count: int, seed: int, *, length: int = WINDOW) -> list[str]:
    """Return `count` passages of at most `length` characters, drawn uniformly; each begins at a word.

    A larger `count` only appends passages, so that earlier answers stay usable.
    """
    places = [(number, at) for number, one in enumerate(documents) for at in range(0, max(1, len(one.text)), length)]
    random.Random(f"passages {seed}").shuffle(places)
    chosen = []
    for number, at in places:
        text = documents[number].text[at : at + length]
        if at:
            text = text[max(0, re.search(r"\s|$", text).end()) :]
        if text.strip():
            chosen.append(text.strip())
        if len(chosen) == count:
            break
    return chosen


def questions(passages: Sequence[str]) -> list[list[dict[str, str]]]:
    """Return the question about each passage, as chat messages."""
    kinds = ", ".join(KINDS)
    return [
        [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASK.format(kinds=kinds, passage=passage)}]
        for passage in passages
    ]


def unite(
    passages: Sequence[str], answers: Sequence[Expressions | None], documents: Sequence[Document]
) -> tuple[Anchors, list[str]]:
    """Return the union of all answers, and notes on what was omitted.

    All distinct alternatives of an expression are kept, in the order of the answers. Expressions that their passage
    does not contain are omitted, and so are alternatives that equal their expression or are expressions themselves.

    Args:
      passages: the passages, one for each answer.
      answers: the answers; None if unusable.
      documents: the text, for the evidence of each expression.
    """
    united: dict[str, list[str]] = {}
    kinds: dict[str, dict[str, int]] = {}
    named: dict[str, int] = {}
    strangers = 0
    for passage, answer in zip(passages, answers, strict=True):
        flat = " ".join(passage.split())
        for one in () if answer is None else answer.expressions:
            key = bare(" ".join(one.expression.split()))
            if not key or not re.search(rf"(?<!\w){re.escape(key)}(?!\w)", flat):
                strangers += 1
                continue
            united.setdefault(key, []).extend(" ".join(text.split()) for text in one.alternatives)
            kind = one.kind if one.kind in KINDS else "thing"
            kinds.setdefault(key, {})[kind] = kinds.get(key, {}).get(kind, 0) + 1
            named[key] = named.get(key, 0) + 1
    entries, own = _fitting(united)
    contexts = find_contexts(documents, {key: named[key] for key in entries})
    ordered = sorted(entries, key=lambda key: (-len(key.split()), -named[key], key))
    evidence = {key: _evidence(kinds[key], named[key], contexts[key], documents, key) for key in ordered}
    notes = []
    if strangers:
        notes.append(f"{strangers} expressions omitted: their passage does not contain them")
    if own:
        notes.append(f"{own} alternatives omitted: they are expressions of the text themselves")
    return Anchors({key: tuple(entries[key]) for key in ordered}, evidence), notes


def _fitting(united: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[str]], int]:
    """Return the entries with their valid translations, and the number of alternatives that are anchors themselves."""
    entries, own = {}, 0
    for key, texts in united.items():
        fine = []
        for text in dict.fromkeys(texts):
            if text in united and text != key:
                own += 1
            elif text.lower() != key.lower():
                fine.append(text)
        if fine:
            entries[key] = fine
    return entries, own


def _evidence(
    kinds: Mapping[str, int], named: int, contexts: Sequence[Context], documents: Sequence[Document], key: str
) -> dict[str, Any]:
    kind = max(kinds, key=lambda name: kinds[name])
    count = sum(one.text.count(key) for one in documents)
    return {"kind": kind, "count": count, "answers": named, "example": example(contexts)}
