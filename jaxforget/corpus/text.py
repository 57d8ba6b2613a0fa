"""Sources of text: files, folders and tensorflow-datasets, read one document at a time."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from jaxforget.corpus.questions import FIELDS, Question, parse_question, question_fields
from jaxforget.errors import UserError, first_line
from jaxforget.files import files_below, parse_json, refuse_lfs_pointer

SUFFIXES = (".txt", ".md", ".jsonl")  # the files of a folder that are read
RECORDS = ".json"  # read only if it is named itself, because many folders hold a .json file of another kind
REMEDIES = {
    ".jsonl": "correct that line, or rename the file if it is text",
    RECORDS: "write a list of records, [{…}, {…}], or each record on one line",
}
NAMED = 3  # files of each kind that a message names


@dataclasses.dataclass(frozen=True)
class Document:
    """One text, or one question with its answer.

    Attributes:
      name: where it came from: a file, file:line, or the record of a data set.
      text: the text; of a question its plain form (`Question.text`).
      question: None for a text.
    """

    name: str
    text: str
    question: Question | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of text: the only way in which the program reads documents, and what it fingerprints.

    Attributes:
      path: a .txt, .md, .jsonl or .json file; a folder of the first three, searched in depth and sorted by path (links
        to folders are followed, hidden names left out); or a prepared tensorflow-datasets data set, "tfds:NAME" or, if
        there is no such path, "NAME". A .jsonl file holds a record a line, a .json file that or a list of records.
      field: the name of the text in each record; records without it that have the fields "question" and "answer" are
        questions with answers, as are all records if `field` names two fields, "question,answer".
      split: the split of a data set.
    """

    path: str | Path
    field: str = "text"
    split: str = "train"

    def documents(self, data_dir: str | Path | None = None) -> Iterator[Document]:
        """Yield the documents in a fixed order.

        A byte order mark is removed and line ends become "\n", as in Python's own text reading.

        Args:
          data_dir: the folder of the data sets; None takes the default of tensorflow-datasets.

        Raises:
          UserError: no such path, not UTF-8 (with the byte offset), a record without the field, only blanks, texts and
            questions in one file.
        """
        files = self.files()
        if files is None:
            yield from _read_dataset(str(self.path), self.field, self.split, data_dir)
            return
        for file in files:
            yield from _read_file(file, self.field)

    def files(self) -> list[Path] | None:
        """Return the files that `documents` reads, in order; None for a data set.

        Raises:
          UserError: no such path, a folder without texts, or a file of another type.
        """
        name, path = str(self.path), Path(self.path)
        if name.startswith("tfds:"):
            return None
        if path.is_dir():
            files = [file for file in files_below(path)[0] if file.suffix.lower() in SUFFIXES]
            if not files:
                raise UserError(
                    f"{path}: the folder holds no {', '.join(SUFFIXES)} file; put texts in it, or name another"
                )
            return files
        if path.is_file():
            if path.suffix.lower() not in (*SUFFIXES, RECORDS):
                raise UserError(f"{path}: not a {', '.join(SUFFIXES)} or {RECORDS} file; rename it if it is plain text")
            return [path]
        if path.is_symlink():
            raise UserError(f"{path}: is a link that leads nowhere or in a circle; correct it, or name another text")
        if re.fullmatch(r"[a-z]\w*(/[\w.+-]+)?(:[\d.*]+)?", name):
            return None
        raise UserError(f"{path}: no such file or folder; give a text, a folder of texts, or tfds:NAME")

    def left_out(self) -> list[str]:
        """Return a line for everything in the folder that is not read, except hidden names; none for a file."""
        path = Path(self.path)
        if not path.is_dir():
            return []
        files, broken = files_below(path)
        others = [file for file in files if file.suffix.lower() not in SUFFIXES]
        return [
            f"{path}: not read: {what}: {', '.join(str(one.relative_to(path)) for one in some[:NAMED])}"
            + (f" and {len(some) - NAMED:,} more" if len(some) > NAMED else "")
            for what, some in (
                ("links that lead nowhere or in a circle", broken),
                (f"files that are no {', '.join(SUFFIXES)}", others),
            )
            if some
        ]

    def fingerprint(self, hash_file: Callable[[Path], str]) -> str:
        """Return one hash of everything that `documents` depends on.

        The texts count by their content, so a renamed or moved folder keeps its fingerprint while the order of its
        files is the same. A data set, and a path that cannot be read, count by their name.

        Args:
          hash_file: returns the hash of one file's content.
        """
        try:
            files = self.files()
        except UserError:  # told when it is read; until then it differs from every text that can be read
            files = None
        content = str(self.path) if files is None else [[file.suffix.lower(), hash_file(file)] for file in files]
        return hashlib.sha256(json.dumps([content, self.field, self.split]).encode()).hexdigest()


class SourceOptions(Protocol):
    """A section of the configuration that names a source of text."""

    path: str | None
    field: str
    split: str


def source_of(options: SourceOptions) -> Source | None:
    """Return the source that a section of the configuration names (corpus.*, retain.*); None if its path is unset."""
    return None if options.path is None else Source(options.path, options.field, options.split)


def _read_file(path: Path, field: str) -> Iterator[Document]:
    try:
        refuse_lfs_pointer(path)
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}; allow it, or name another") from None
    text = _decode(data, str(path)).removeprefix("\ufeff")
    if not text.strip():
        raise UserError(f"{path}: the file is empty; remove it or put text in it")
    if path.suffix.lower() not in (".jsonl", RECORDS):
        yield Document(str(path), _lines(text))
        return
    anything, asks = False, None  # asks: True for a file of questions, False for one of texts
    for where, record in _records(path, text):
        names = question_fields(record, field)
        if asks is not None and asks != (names is not None) and (names or field in record):
            here, before = ("texts", "questions") if asks else ("questions", "texts")
            raise UserError(f"{where}: one of {here}, but the records before it are {before}; keep one kind in a file")
        asks = names is not None if asks is None else asks
        if asks:
            anything = True
            question = parse_question(record, names or FIELDS, where)
            yield Document(where, question.text, question)
        elif (value := _json_field(record, where, field)).strip():
            anything = True
            yield Document(where, _lines(value))
    if not anything:
        raise UserError(f"{path}: the field {field!r} is empty in every record; name the field that holds the text")


def _records(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place for messages, record) of a file of JSON lines, or of a .json file that holds a list."""
    if path.suffix.lower() == RECORDS and text.lstrip().startswith("["):
        records = parse_json(text, str(path), remedy="correct that line")
        if not records:
            raise UserError(f"{path}: the list holds no record; add some, or name another file")
        for number, record in enumerate(records):
            yield _is_object(record, f"{path}: item {number}")
        return
    for number, line in enumerate(_lines(text).split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            yield _is_object(parse_json(line, where, remedy=REMEDIES[path.suffix.lower()], lines=False), where)


def _is_object(record: Any, where: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(record, dict):
        raise UserError(
            f'{where}: not an object; each record must be {{"text": "…"}} or {{"question": "…", "answer": "…"}}'
        )
    return where, record


def _json_field(record: dict[str, Any], where: str, field: str) -> str:
    """Return the text of one record."""
    if field not in record:
        raise UserError(f"{where}: no field {field!r}; it has {_names(record)}; name the text's field")
    if not isinstance(record[field], str):
        raise UserError(
            f"{where}: the field {field!r} is no string; name the field that holds the text, or correct that line"
        )
    if _has_surrogate(record[field]):
        raise UserError(f"{where}: the field {field!r} holds half of a \\u surrogate pair; correct its escapes")
    return record[field]


def _read_dataset(given: str, field: str, split: str, data_dir: str | Path | None) -> Iterator[Document]:
    """Yield the documents of a prepared data set through its random-access source, without importing TensorFlow."""
    import tensorflow_datasets as tfds  # slow to import, and most runs read plain files

    name = given.removeprefix("tfds:")
    where = f"tfds:{name}"
    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        raise UserError(
            f"{given}: no such file, folder or tensorflow-datasets data set; give a text, a folder of texts, or "
            "tfds:NAME, the name of a prepared data set"
        ) from None
    except (
        ImportError,
        ValueError,
        RuntimeError,
    ) as error:  # a package it needs, a config or version unknown
        raise UserError(f"{where}: cannot be opened: {first_line(error)}") from None
    try:
        source = builder.as_data_source(split)
    except (RuntimeError, AssertionError, FileNotFoundError):
        build = f"tfds build {name} --file_format=array_record"
        raise UserError(f"{where}: not prepared in array_record form; run: {build}") from None
    except (ValueError, KeyError):
        raise UserError(f"{where}: no split {split!r}; it has {_names(builder.info.splits)}") from None
    anything = False
    for index in range(len(source)):
        record = source[index]
        at = f"{where}[{split}]:{index}"
        if field not in record:
            raise UserError(f"{at}: no field {field!r}; it has {_names(record)}; name the text's field")
        value = record[field]
        if not isinstance(value, (bytes, str)):
            raise UserError(f"{at}: the field {field!r} is not text; name the field that holds it")
        text = _decode(value, at) if isinstance(value, bytes) else value
        if text.strip():
            anything = True
            yield Document(at, _lines(text))
    if not anything:
        raise UserError(
            f"{where}: the field {field!r} is empty in every record of {split!r}; name another field or split"
        )


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 at byte {error.start}; save it as UTF-8") from None


def _has_surrogate(text: str) -> bool:
    """Return True if JSON escapes spelled half a character, which no tokenizer accepts."""
    return re.search("[\ud800-\udfff]", text) is not None


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _names(mapping: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in mapping) or "none"
