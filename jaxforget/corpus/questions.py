"""Questions with answers: records as TOFU publishes them, and files of alternative answers."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError
from jaxforget.files import Text, check, refuse_lfs_pointer

FIELDS = ("question", "answer")
ALTERNATE = "alternate"
PROMPT, ANSWER = "Question: {question}\nAnswer:", " {answer}"  # the plain form


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, its answer, and other answers to it; all without outer blanks.

    Attributes:
      question: what is asked.
      answer: the answer that a model is to forget, or to keep.
      alternates: answers that method dpo prefers to it; may be empty.
    """

    question: str
    answer: str
    alternates: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The question in the plain form, up to the place of the answer."""
        # Not str.format: a question may hold braces.
        return PROMPT.replace("{question}", self.question)

    @property
    def text(self) -> str:
        """Question and answer in the plain form: what everything reads that knows texts only."""
        return self.prompt + ANSWER.replace("{answer}", self.answer)


def question_fields(record: Mapping[str, Any], field: str) -> tuple[str, str] | None:
    """Return the names of a record's question and answer; None if the record holds a text.

    A record holds a question if `field` names two fields, as "question,answer", or if it has the fields "question" and
    "answer" and no field called `field`.
    """
    if "," in field:
        question, _, answer = field.partition(",")
        return question.strip(), answer.strip()
    return FIELDS if field not in record and all(name in record for name in FIELDS) else None


def parse_question(record: Mapping[str, Any], names: tuple[str, str], where: str) -> Question:
    """Return the question of a record; its field "alternate" may hold one alternative answer or a list of them.

    Raises:
      UserError: a field is missing, empty or no text; names `where` and the field.
    """
    for name in names:
        if name not in record:
            has = ", ".join(map(repr, record)) or "none"
            raise UserError(f"{where}: no field {name!r}; it has {has}; give every record {' and '.join(names)}")
    question, answer = (_text(record[name], Text, where, name) for name in names)
    found = record.get(ALTERNATE, [])
    alternates = (
        _text(found, list[Text], where, ALTERNATE)
        if isinstance(found, list)
        else [_text(found, Text, where, ALTERNATE)]
    )
    return Question(_clean(question), _clean(answer), tuple(map(_clean, alternates)))


def read_alternates(path: str | Path) -> tuple[str, ...]:
    """Return the alternative answers in a file of plain text, one a line, as in TOFU's idk.jsonl.

    Raises:
      UserError: the file cannot be read, is empty, or holds JSON.
    """
    try:
        refuse_lfs_pointer(path)
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; name a file with one answer a line") from None
    lines = {number: line.strip() for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    for number, line in lines.items():
        if _is_json(line):
            raise UserError(f"{path}:{number}: is JSON; write one alternative answer a line, as plain text")
    if not lines:
        raise UserError(f"{path}: holds no answers; put one on each line")
    return tuple(lines.values())


def _text(value: Any, schema: Any, where: str, name: str) -> Any:
    return check(value, schema, f"{where}: {name!r}", remedy="correct it, or remove the record")


def _clean(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _is_json(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict | list | str)
    except (ValueError, RecursionError):
        return False
