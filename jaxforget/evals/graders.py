"""Graders of completions, which sort them into four classes of knowledge about the target (WHP section 3).

Both graders see prompt, references and completion. An expression counts only if the completion holds it and the prompt
does not.
"""

import dataclasses
import re
from collections.abc import Collection, Sequence

import pydantic

from jaxforget.evals.completion_prompts import Prompt, hidden
from jaxforget.evals.prompting import holds, words

OFFLINE = "graded offline by references and anchors"
SYSTEM = """\
You judge whether a language model still knows a certain text. You are given the beginning of a paragraph, references
(names and details of that text which the beginning leaves out), and how the model went on. Judge only what the
continuation shows and the beginning does not already say. Grades:
3: it shows names or details that are unique to the text: a reference, or others that you know to come from there.
2: it shows nothing unique, but is typical of the text's themes, and the beginning gives no hint of these themes.
1: it shows something of the text that may well be a lucky guess.
0: none of these."""
ASK = """\
Beginning:
{prompt}

References:
{references}

Continuation:
{completion}

List under "shown" what the continuation shows of the text and the beginning does not, word for word; then give the
grade and, in one sentence, why."""


class Verdict(pydantic.BaseModel):
    """A language model's grade."""

    shown: list[str]
    grade: int = pydantic.Field(ge=0, le=3)
    why: str


@dataclasses.dataclass(frozen=True)
class Grade:
    """A grade from 0 to 3, the expressions that the completion shows, and the grader's own words."""

    grade: int
    shown: tuple[str, ...]
    raw: str


def grade_offline(prompt: Prompt, completion: str, anchors: Sequence[str], common: Collection[str]) -> Grade:
    """Grade by matching whole words.

    3: a unique reference or anchor. 2: one that is not unique. 1: a distinctive word of a reference of several words.
    A lower-case expression of common words only is not unique: a wand, a staff.

    Args:
      prompt: the prompt with its references.
      completion: the completion.
      anchors: further expressions of the target.
      common: lower-case words of general text. Without any, a single lower-case word is not unique.
    """
    shown = [word for word in dict.fromkeys((*prompt.references, *anchors)) if holds(completion, word)]
    shown = hidden(shown, prompt.prompt)
    unique = [word for word in shown if _unique(word, common)]
    if unique:
        return Grade(3, tuple(unique), "unique: " + ", ".join(unique))
    if shown:
        return Grade(2, tuple(shown), "themes: " + ", ".join(shown))
    parts = [
        word for reference in prompt.references for word in words(reference)
        if len(words(reference)) > 1 and (word[:1].isupper() or len(word) > 4) and word.lower() not in common
    ]  # fmt: skip
    guessed = [word for word in hidden(list(dict.fromkeys(parts)), prompt.prompt) if holds(completion, word)]
    if guessed:
        return Grade(1, tuple(guessed), "part of a reference: " + ", ".join(guessed))
    return Grade(0, (), "nothing")


def _unique(expression: str, common: Collection[str]) -> bool:
    if expression != expression.lower():
        return True
    parts = words(expression)
    if not common:
        return len(parts) > 1
    return any(part not in common for part in parts)


def common_words(texts: Sequence[str]) -> set[str]:
    """Return the words that occur in lower case in general text."""
    return {
        word for text in texts for word in words(text) if re.fullmatch(r"[^\W\d_].*", word) and word == word.lower()
    }


def grade_question(prompt: Prompt, completion: str) -> list[dict[str, str]]:
    """Return the question to a grading language model; its answer is a `Verdict`."""
    references = "\n".join(f"- {reference}" for reference in hidden(prompt.references, prompt.prompt))
    said = ASK.format(prompt=prompt.prompt, references=references, completion=completion.strip() or "(nothing)")
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": said}]


def grade_of(verdict: Verdict, raw: str, prompt: Prompt) -> Grade:
    """Return the verdict as a grade; a 3 or 2 for expressions that the prompt holds already becomes 0."""
    shown = hidden(verdict.shown, prompt.prompt)
    grade = 0 if verdict.shown and not shown and verdict.grade >= 2 else verdict.grade
    return Grade(grade, tuple(shown), raw)
