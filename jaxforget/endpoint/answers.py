"""Answers of an endpoint: questions with a schema, parsing, and a file of JSON lines that caches the answers."""

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
    """An answer that does not fit the question; the message is the reason in a few words."""


def instructed(messages: Messages, schema: Any) -> list[dict[str, str]]:
    """Return `messages` with an instruction to answer by `schema`; unchanged if `schema` is None."""
    asked = [dict(message) for message in messages]
    if schema is None:
        return asked
    said = INSTRUCTION.format(schema=json.dumps(_adapter(schema).json_schema(), ensure_ascii=False))
    # The instruction goes into the first system message, because some endpoints accept only one.
    if asked and asked[0]["role"] == "system":
        asked[0]["content"] += "\n\n" + said
        return asked
    return [{"role": "system", "content": said}, *asked]


def repaired(messages: Messages, answer: str, fault: str, schema: Any) -> list[dict[str, str]]:
    """Return the question again, with the unusable answer and its fault."""
    again = (REPAIR_TEXT if schema is None else REPAIR).format(fault=fault)
    # Some endpoints refuse an empty message, so an empty answer is omitted.
    said = [{"role": "assistant", "content": answer}] if answer.strip() else []
    return [*(dict(message) for message in messages), *said, {"role": "user", "content": again}]


def parse(text: str, schema: Any, *, cut: bool = False) -> Any:
    """Parse an answer.

    Text in <think> tags is removed; code fences and words around a JSON value are ignored.

    Args:
      text: the answer.
      schema: a pydantic model or a type; None for plain text.
      cut: True if the endpoint reports that it stopped for length.

    Returns:
      The text, or the value of `schema`.

    Raises:
      UnusableError: the answer is empty, cut, not JSON, or does not fit `schema`.
    """
    said = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL).strip()
    if not said:
        raise UnusableError("it was cut before it began" if cut else "it is empty")
    if schema is None:
        if cut:
            raise UnusableError("it was cut at the limit of its length")
        return said
    fault = "it is not JSON"
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
    """Return the parts of an answer that may be the JSON value, in the order in which to try them."""
    fenced = re.findall(r"```(?:\w+)?\s*\n(.*?)```", said, flags=re.DOTALL)
    spans = [re.search(pattern, said, flags=re.DOTALL) for pattern in (r"\{.*\}", r"\[.*\]")]
    found = sorted((span for span in spans if span), key=lambda span: span.start())
    return list(dict.fromkeys([said, *(part.strip() for part in fenced), *(span[0] for span in found)]))


def request_hash(model: str, messages: Messages, parameters: Mapping[str, Any]) -> str:
    """Return the key of an answer: the SHA-256 of the model, the messages and the parameters."""
    whole = json.dumps([model, list(messages), dict(parameters)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(whole.encode()).hexdigest()


class Answers:
    """A file of JSON lines {"key", "usable", "answer", "model", "messages", ...}; several threads may append to it."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()

    def read(self) -> dict[str, str]:
        """Return the usable answers by key; an incomplete line, left by a killed process, is ignored."""
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
        """Append one answer and flush it to disk.

        Args:
          key: the answer's `request_hash`.
          usable: False for an answer that did not parse.
          answer: the raw text.
          **more: further fields of the record.

        Raises:
          OSError: the file cannot be written; `filename` is its path.
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
