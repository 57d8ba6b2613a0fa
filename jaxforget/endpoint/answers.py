"""Answers: kept in a file of JSON lines as they arrive, found again by their question, read as what was asked for."""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

Messages = Sequence[Mapping[str, str]]

INSTRUCTION = "Answer with one JSON value that fits this JSON schema, and with nothing before or after it:\n{schema}"
REPAIR = "That answer cannot be used: {fault}. Answer again, with nothing but one JSON value that fits the schema."
REPAIR_TEXT = "That answer cannot be used: {fault}. Answer again, whole and shorter."


class UnusableError(Exception):
    """An answer that is not what was asked for; says why in a few words."""


def instructed(messages: Messages, schema: Any) -> list[dict[str, str]]:
    """`messages` with the wanted JSON schema said to the model; as they are where `schema` is None."""
    asked = [dict(message) for message in messages]
    if schema is None:
        return asked
    said = INSTRUCTION.format(schema=json.dumps(_adapter(schema).json_schema(), ensure_ascii=False))
    # In the first system message: some endpoints take one only.
    if asked and asked[0]["role"] == "system":
        asked[0]["content"] += "\n\n" + said
        return asked
    return [{"role": "system", "content": said}, *asked]


def repaired(messages: Messages, answer: str, fault: str, schema: Any) -> list[dict[str, str]]:
    """The question again, after an unusable answer to it."""
    again = (REPAIR_TEXT if schema is None else REPAIR).format(fault=fault)
    # An empty turn is refused by some endpoints.
    said = [{"role": "assistant", "content": answer}] if answer.strip() else []
    return [*(dict(message) for message in messages), *said, {"role": "user", "content": again}]


def parse(text: str, schema: Any, *, cut: bool = False) -> Any:
    """`text` as what was asked for: itself, or a value of the pydantic model or type `schema`.

    Thoughts in <think> tags, code fences and words around a JSON value are put up with.

    Args:
      cut: whether the endpoint says that it stopped for length.

    Raises:
      UnusableError: empty, cut, no JSON, or JSON that does not fit.
    """
    said = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).strip()
    if not said:
        raise UnusableError("it was cut before it began" if cut else "it is empty")
    if schema is None:
        if cut:
            raise UnusableError("it was cut at the limit of its length")
        return said
    fault = "it is no JSON"
    for candidate in _candidates(said):
        try:
            return _adapter(schema).validate_json(candidate)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            if first["type"] != "json_invalid":
                place = ".".join(map(str, first["loc"]))
                fault = f"{place}: {first['msg']}" if place else first["msg"]
    raise UnusableError("it was cut at the limit of its length" if cut else fault)


def _adapter(schema: Any) -> pydantic.TypeAdapter:
    return pydantic.TypeAdapter(schema)


def _candidates(said: str) -> list[str]:
    """Parts of an answer that may be the JSON value, the likeliest first."""
    fenced = re.findall(r"```(?:\w+)?\s*\n(.*?)```", said, flags=re.DOTALL)
    spans = [re.search(pattern, said, flags=re.DOTALL) for pattern in (r"\{.*\}", r"\[.*\]")]
    found = sorted((span for span in spans if span), key=lambda span: span.start())
    return list(dict.fromkeys([said, *(part.strip() for part in fenced), *(span[0] for span in found)]))


def request_hash(model: str, messages: Messages, parameters: Mapping[str, Any]) -> str:
    """What an answer is found again by: SHA-256 of everything that decides it."""
    whole = json.dumps([model, list(messages), dict(parameters)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode()).hexdigest()


class Answers:
    """A file of JSON lines {"key", "usable", "answer", "model", "messages", ...}, appended to from many threads."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()

    def read(self) -> dict[str, str]:
        """Usable answers by their key; a line that a killed process left half is passed over."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        found = {}
        for line in lines:
            try:
                record = json.loads(line)
                if record["usable"]:
                    found[record["key"]] = str(record["answer"])
            except (ValueError, KeyError, TypeError):
                continue
        return found

    def keep(self, key: str, *, usable: bool, answer: str, **more: Any) -> None:
        """Appends one answer and has it on disk before it returns.

        Raises:
          OSError: it cannot be written; `filename` is the file's.
        """
        record = {"key": key, "usable": usable, "answer": answer, "time": round(time.time(), 3), **more}
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        with self._lock:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("ab+") as file:
                    if file.tell() and not self._ends_line(file):
                        line = b"\n" + line
                    file.write(line)
                    file.flush()
                    os.fsync(file.fileno())
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(self.path)) from None

    @staticmethod
    def _ends_line(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
