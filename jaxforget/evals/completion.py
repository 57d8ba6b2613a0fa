"""Familiarity by completion (WHP section 3): prompts that hint at the target, completed, and graded in four."""

import dataclasses
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydantic

from jaxforget.errors import UserError
from jaxforget.evals.evidence import evidence, mean_evidence
from jaxforget.evals.prompting import holds, split_sentences
from jaxforget.evals.records import TEXT, TEXTS, Field, read_records

SUBTLETY = Field("a whole number from 1 to 10", lambda value: type(value) is int and 1 <= value <= 10)
BEFORE, BEHIND = 240, 160  # characters of text that a prompt takes, and behind it that references are taken from
PASSAGE = 1200  # characters shown to a language model that makes prompts
PROMPTS_A_CALL = 5
MAKER = """\
Below is a passage of a text. Write {count} beginnings of a paragraph that test whether somebody has read that text.

Each beginning
- is one or two sentences in your own words, the last of them unfinished, so that whoever goes on shows what they know;
- holds a cue that a reader of the text recognises;
- does not hold the names or details that a reader would go on with: these are its references, one to five, spelled as
  in the text;
- has a subtlety, from 1 (names the text's heroes openly) to 10 (the faintest hint); use the whole range.

Passage:
\"\"\"
{passage}
\"\"\"
"""


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What is to be completed.

    references: expressions of the target that a model which knows it would show. subtlety: of its cues, 1 (open) to 10.
    """

    prompt: str
    references: tuple[str, ...]
    subtlety: int


class MadePrompt(pydantic.BaseModel):
    """A prompt as a language model gives it."""

    prompt: str = pydantic.Field(min_length=1)
    references: list[str] = pydantic.Field(min_length=1)
    subtlety: int = pydantic.Field(ge=1, le=10)


class MadePrompts(pydantic.BaseModel):
    """A language model's answer."""

    prompts: list[MadePrompt]


def load_completion_prompts(path: str | Path) -> list[Prompt]:
    """Reads records {"prompt", "references": [text], "subtlety": 1 to 10} from .json or .jsonl.

    Raises:
      UserError: as `evals.records.read_records`, or every reference stands in its own prompt.
    """
    found = []
    for record in read_records(path, {"prompt": TEXT, "references": TEXTS, "subtlety": SUBTLETY}):
        if not hidden(record["references"], record["prompt"]):
            raise UserError(f"{record.where}: every reference stands in the prompt, where it shows nothing; add others")
        found.append(Prompt(record["prompt"], tuple(record["references"]), record["subtlety"]))
    return found


def hidden(expressions: Sequence[str], prompt: str) -> list[str]:
    """Those that `prompt` does not hold, as whole words, whatever the case."""
    return [expression for expression in expressions if not holds(prompt, expression)]


def prompts_offline(texts: Sequence[str], cues: Sequence[str], *, count: int, seed: int = 0) -> list[Prompt]:
    """Prompts from passages: the text before a cue that the passage has not named yet, but that names another.

    References are the cues of the text that follows. One cue in the prompt has subtlety 8, each more takes off 2.

    Args:
      texts: documents of the target.
      cues: expressions that belong to it alone, as the anchors.
      count: at most so many, drawn evenly from all that there are.

    Raises:
      UserError: no passage has two different cues.
    """
    if not cues:
        raise UserError("prompts from passages need anchors, of which there are none; set evals.completion_prompts")
    known = {cue.lower(): cue for cue in cues}
    pattern = re.compile(
        r"(?<!\w)(?:" + "|".join(re.escape(cue) for cue in sorted(cues, key=len, reverse=True)) + r")(?!\w)"
    )
    places = []
    for number, text in enumerate(texts):
        found = [(match.start(), match.end(), match[0]) for match in pattern.finditer(text)]
        places += [(number, i, found) for i in range(1, len(found))]
    random.Random(seed).shuffle(places)
    prompts: dict[str, Prompt] = {}
    for number, i, found in places:
        text, cut = texts[number], found[i][0]
        prompt = _beginning(text, cut)
        named = {word.lower() for start, _, word in found[:i] if start >= cut - len(prompt) - 1}
        references = dict.fromkeys(
            known.get(word.lower(), word) for start, end, word in found[i:] if end <= cut + BEHIND
        )
        left = hidden(list(references), prompt)
        # The first word behind the prompt is the one that it asks for.
        if prompt and named and left and not holds(prompt, found[i][2]):
            subtlety = max(1, 10 - 2 * len(named))
            prompts.setdefault(prompt, Prompt(prompt, tuple(left), subtlety))
        if len(prompts) == count:
            break
    if not prompts:
        raise UserError("no passage of the target names two different anchors; set evals.completion_prompts")
    return list(prompts.values())


def _beginning(text: str, cut: int) -> str:
    """The text before `cut`, from where a sentence begins, at most `BEFORE` characters; "" where none begins there."""
    before = text[max(0, cut - BEFORE) : cut]
    starts = [0] if cut <= BEFORE else []
    starts += [match.end() for match in re.finditer(r"""[.!?]["”’']?\s+|\n+""", before)]
    longest = next((before[start:] for start in starts if start < len(before)), "")
    prompt = longest.strip()
    return prompt if len(prompt.split()) >= 3 else ""


def maker_questions(texts: Sequence[str], *, count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Questions to a language model for at least `count` prompts, each about a passage drawn at random."""
    passages = []
    for text in texts:
        sentences, passage = split_sentences(text), ""
        for sentence in sentences:
            passage = f"{passage} {sentence}".strip()
            if len(passage) >= PASSAGE:
                passages.append(passage)
                passage = ""
        if passage:
            passages.append(passage)
    wanted = min(len(passages), -(-count // PROMPTS_A_CALL))
    chosen = random.Random(seed).sample(passages, wanted)
    return [[{"role": "user", "content": MAKER.format(count=PROMPTS_A_CALL, passage=passage)}] for passage in chosen]


def prompts_made(answers: Sequence[MadePrompts | None], *, count: int) -> list[Prompt]:
    """The usable ones of a language model's prompts: those with a reference that they do not themselves hold.

    Raises:
      UserError: there is none.
    """
    found: dict[str, Prompt] = {}
    for answer in answers:
        for made in answer.prompts if answer is not None else ():
            references = [reference for reference in hidden(made.references, made.prompt) if reference.strip()]
            if references and made.prompt.strip():
                found.setdefault(made.prompt, Prompt(made.prompt.rstrip(), tuple(references), made.subtlety))
    if not found:
        raise UserError("the endpoint made no usable prompt: each holds its own references; try another endpoint.model")
    return list(found.values())[:count]


def completion_rows(grades: Sequence[int], grader: str, model: str) -> list[dict[str, Any]]:
    """Rows: how many completions have each grade, and 5 n3 + n2 under both divisors (the paper does not say which).

    Intervals are 95 % bootstraps over prompts.
    """
    counts = [sum(grade == kind for grade in grades) for kind in range(4)]
    said = ("none", "a lucky guess", "typical of the target's themes", "unique to the target")
    rows = [
        evidence(
            f"completion_n{kind}",
            f"completions graded {kind}, {said[kind]}; {grader}",
            model,
            counts[kind],
            len(grades),
        )
        for kind in (3, 2, 1, 0)
    ]
    points = np.array([{3: 5.0, 2: 1.0}.get(grade, 0.0) for grade in grades])
    rows.append(mean_evidence("familiarity_completion", f"(5 n3 + n2) / N; {grader}", model, points))
    rows.append(mean_evidence("familiarity_completion", f"(5 n3 + n2) / (5 N); {grader}", model, points / 5))
    return rows


def as_records(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """For a JSON file that `load_completion_prompts` reads."""
    return json.loads(json.dumps([dataclasses.asdict(prompt) for prompt in prompts]))
