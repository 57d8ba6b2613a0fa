"""Prompts that hint at the target, for familiarity by completion (WHP section 3)."""

import dataclasses
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic

from jaxforget.errors import UserError
from jaxforget.evals.prompting import holds, split_sentences
from jaxforget.evals.records import Texts, read_records
from jaxforget.files import Text

Subtlety = Annotated[int, pydantic.Field(strict=True, ge=1, le=10)]
BEFORE, BEHIND = 240, 160  # characters of text in a prompt, and after it for its references
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
    """A text to complete.

    Attributes:
      prompt: the text.
      references: expressions of the target that a model with knowledge of it would continue with.
      subtlety: of its cues, from 1 (open) to 10.
    """

    prompt: str
    references: tuple[str, ...]
    subtlety: int


class MadePrompt(pydantic.BaseModel):
    """A prompt written by a language model."""

    prompt: str = pydantic.Field(min_length=1)
    references: list[str] = pydantic.Field(min_length=1)
    subtlety: int = pydantic.Field(ge=1, le=10)


class MadePrompts(pydantic.BaseModel):
    """A language model's answer."""

    prompts: list[MadePrompt]


def load_completion_prompts(path: str | Path) -> list[Prompt]:
    """Read records {"prompt", "references": [text], "subtlety": 1 to 10} from .json or .jsonl.

    Raises:
      UserError: as `evals.records.read_records`, or a prompt holds all of its references.
    """
    found = []
    for record in read_records(path, {"prompt": Text, "references": Texts, "subtlety": Subtlety}):
        if not hidden(record["references"], record["prompt"]):
            raise UserError(f"{record.where}: the prompt holds every reference, so none shows knowledge; add others")
        found.append(Prompt(record["prompt"], tuple(record["references"]), record["subtlety"]))
    return found


def hidden(expressions: Sequence[str], prompt: str) -> list[str]:
    """Return the expressions that `prompt` does not hold as whole words, in any case."""
    return [expression for expression in expressions if not holds(prompt, expression)]


def prompts_offline(texts: Sequence[str], cues: Sequence[str], *, count: int, seed: int = 0) -> list[Prompt]:
    """Make prompts from passages: the text before a cue that the passage has not named yet, with another cue in it.

    References are the cues of the text that follows. One cue in the prompt gives subtlety 8, each further one 2 less.

    Args:
      texts: documents of the target.
      cues: expressions that belong to it alone, as the anchors.
      count: number of prompts at most, drawn evenly from all.
      seed: seed of the draw.

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
        # The prompt asks for the cue that follows it, so it must not hold that cue.
        if prompt and named and left and not holds(prompt, found[i][2]):
            subtlety = max(1, 10 - 2 * len(named))
            prompts.setdefault(prompt, Prompt(prompt, tuple(left), subtlety))
        if len(prompts) == count:
            break
    if not prompts:
        raise UserError("no passage of the target names two different anchors; set evals.completion_prompts")
    return list(prompts.values())


def _beginning(text: str, cut: int) -> str:
    """Return at most `BEFORE` characters before `cut` from the start of a sentence; "" if no sentence starts there."""
    before = text[max(0, cut - BEFORE) : cut]
    starts = [0] if cut <= BEFORE else []
    starts += [match.end() for match in re.finditer(r"""[.!?]["”’']?\s+|\n+""", before)]
    longest = next((before[start:] for start in starts if start < len(before)), "")
    prompt = longest.strip()
    return prompt if len(prompt.split()) >= 3 else ""


def maker_questions(texts: Sequence[str], *, count: int, seed: int = 0) -> list[list[dict[str, str]]]:
    """Return questions to a language model for at least `count` prompts, each about a randomly drawn passage."""
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
    """Return a language model's usable prompts: those with a reference that they do not hold themselves.

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


def as_records(prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Return the prompts as `load_completion_prompts` reads them from JSON."""
    return json.loads(json.dumps([dataclasses.asdict(prompt) for prompt in prompts]))
