"""Suite `multiple_choice`: your own documents, asked and scored as EleutherAI's lm-evaluation-harness does."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.corpus.prompts import encode_prompts
from jaxforget.errors import UserError
from jaxforget.evals.records import Number, Texts, read_records
from jaxforget.evals.rows import Row, mean_row
from jaxforget.evals.scorers import continuation_scorer
from jaxforget.evals.suite import RunInputs, Suite
from jaxforget.lm.model import Model

# pairs (token ids before, token ids of the continuation) -> (summed log-likelihood, every token is the argmax)
Score = Callable[[Sequence[tuple[Sequence[int], Sequence[int]]]], list[tuple[float, bool]]]
CONVENTIONS = {
    "acc": "argmax of summed log-likelihood",
    "acc_norm": "argmax of summed log-likelihood / characters of the choice (lm-evaluation-harness)",
    "acc_bytes": "argmax of summed log-likelihood / bytes of the choice (lm-evaluation-harness)",
}
MARGIN = "mean over questions of log p(right) - mean log p(wrong), nats"


@dataclasses.dataclass(frozen=True)
class Document:
    """A question with its choices.

    Attributes:
      context: the text before a choice.
      choices: the texts that may follow it.
      answer: number of the right choice, from 0.
      where: location of the document, for messages.
      ending: if set, the choices are contexts, and this text is scored after each of them.
    """

    context: str
    choices: tuple[str, ...]
    answer: int
    where: str = "document"
    ending: str | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """Return (text before, scored text) of every choice."""
        if self.ending is not None:
            return [(choice, self.ending) for choice in self.choices]
        return [(self.context, choice) for choice in self.choices]


def load_choices(path: str | Path) -> list[Document]:
    """Read documents {"context", "choices", "answer"} from .jsonl (or a .json list); `answer` counts from 0.

    Raises:
      UserError: the file is missing or empty, or a field is missing or unfit; names the file, the line and the field.
    """
    documents = []
    # An empty context is allowed: the choice then follows the begin token alone.
    for record in read_records(path, {"context": str, "choices": Texts, "answer": Number}):
        if record["answer"] >= len(record["choices"]):
            raise UserError(
                f"{record.where}: answer is {record['answer']}, but there are {len(record['choices'])} choices, "
                "counted from 0"
            )
        documents.append(Document(record["context"], tuple(record["choices"]), record["answer"], record.where))
    return documents


def target_choices(place: str | Path | None) -> list[Document]:
    """Return the documents about the target: a file's, or those of target.jsonl in a folder; else none."""
    if place is None:
        return []
    file = Path(place) / "target.jsonl" if Path(place).is_dir() else Path(place)
    return load_choices(file) if file.is_file() else []


def encode_choices(
    documents: Sequence[Document], tokenizer: Any, *, delimiter: str = " "
) -> list[tuple[list[int], list[int]]]:
    """Return (token ids before, token ids of the choice) of every choice of every document.

    Context, delimiter and choice are tokenized as one text. The choice's tokens are those beyond the number that the
    context has alone. White space at the end of the context belongs to the choice. An empty context becomes the begin
    token (or the end token if there is none). No text is closed by an end token; the harness itself keeps the one that
    a tokenizer appends.

    Raises:
      UserError: no token is left for a choice.
    """
    asked = [(context, delimiter + choice, d) for d in documents for context, choice in d.pairs()]
    bare = [context.rstrip() for context, _, _ in asked]
    # A few calls for all texts: one call a text would take longer than the model does.
    alone = dict.fromkeys(text for text in bare if text)
    alone = dict(zip(alone, map(len, encode_prompts(tokenizer, list(alone))), strict=True))
    texts = [before + context[len(before) :] + more for before, (context, more, _) in zip(bare, asked, strict=True)]
    whole = iter(encode_prompts(tokenizer, [text for text, before in zip(texts, bare, strict=True) if before]))
    unopened = [text for text, before in zip(texts, bare, strict=True) if not before]
    loose = iter(tokenizer(unopened, add_special_tokens=False)["input_ids"] if unopened else [])
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    pairs = []
    for before, (_, more, document) in zip(bare, asked, strict=True):
        ids, start = (next(whole), alone[before]) if before else ([first, *next(loose)], 1)
        if len(ids) <= start:
            choice = more.removeprefix(delimiter)
            raise UserError(
                f"{document.where}: the choice {choice!r} has no token of its own after its context; write it out"
            )
        pairs.append((list(ids[:start]), list(ids[start:])))
    return pairs


def cut_pair(before: list[int], after: list[int], max_length: int) -> tuple[list[int], list[int]]:
    """Cut the front of a pair so that it fits `max_length` positions.

    A text of n tokens needs n - 1 positions, because the last one is only predicted.
    """
    ids = (before + after)[-(max_length + 1) :]
    start = max(1, len(ids) - len(after))
    return ids[:start], ids[start:]


def choice_likelihoods(
    documents: Sequence[Document],
    score: Score,
    tokenizer: Any,
    *,
    delimiter: str = " ",
    max_length: int | None = None,
) -> list[np.ndarray]:
    """Return the summed log-likelihood of every choice in nats: one float64 array [num_choices] per document.

    Args:
      documents: from `load_choices`.
      score: from `scorers.continuation_scorer`.
      tokenizer: the model's.
      delimiter: between context and choice.
      max_length: maximum number of input positions. A text of n tokens uses n - 1; a longer one loses tokens at the
        front. None: no truncation.
    """
    pairs = encode_choices(documents, tokenizer, delimiter=delimiter)
    if max_length is not None:
        pairs = [cut_pair(*pair, max_length) for pair in pairs]
    sums = np.array([total for total, _ in score(pairs)])
    ends = np.cumsum([len(document.choices) for document in documents])
    return list(np.split(sums, ends[:-1]))


def right_answers(documents: Sequence[Document], likelihoods: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return bool [documents] for `acc`, `acc_norm` and `acc_bytes`: True if the best choice is the right one.

    The first of equal choices is taken. `acc_norm` divides by characters, as the harness does; it differs from
    `acc_bytes` only on text beyond ASCII.
    """
    sizes = {
        "acc": lambda choice: 1,
        "acc_norm": len,
        "acc_bytes": lambda choice: len(choice.encode("utf-8")),
    }
    return {
        metric: np.array(
            [
                int(np.argmax(sums / np.array([float(size(choice)) for choice in document.choices]))) == document.answer
                for document, sums in zip(documents, likelihoods, strict=True)
            ]
        )
        for metric, size in sizes.items()
    }


def margins(documents: Sequence[Document], likelihoods: Sequence[np.ndarray]) -> np.ndarray:
    """Return log p(right) - mean log p(wrong) of every document with a wrong choice, nats; fp64 [documents].

    A model that never read the text is at 0 on average, if right and wrong choices are equally likely to it.
    """
    return np.array(
        [
            sums[document.answer] - np.delete(sums, document.answer).mean()
            for document, sums in zip(documents, likelihoods, strict=True)
            if len(sums) > 1
        ]
    )


def measure_documents(
    documents: Sequence[Document],
    model: Model,
    *,
    delimiter: str = " ",
    metrics: Sequence[str] = (*CONVENTIONS, "margin"),
) -> list[Row]:
    """Return rows of `metrics` (acc, acc_norm, acc_bytes, margin), zero-shot; 95 % bootstraps over documents."""
    score, length = continuation_scorer(model), model.config.max_position_embeddings
    sums = choice_likelihoods(documents, score, model.tokenizer, delimiter=delimiter, max_length=length)
    right, name = right_answers(documents, sums), model.folder.name
    rows = [mean_row(metric, CONVENTIONS[metric], name, right[metric]) for metric in metrics if metric != "margin"]
    values = margins(documents, sums)
    if "margin" in metrics and len(values):
        rows.append(mean_row("margin", MARGIN, name, values, compared=True))
    return rows


def measure(model: Model, *, data: Path, delimiter: str = " ") -> list[Row]:
    """Measure multiple choice on the documents in the file `data`, or in every .jsonl file of a folder.

    Args:
      model: the model.
      data: .jsonl of {"context", "choices", "answer"}; metrics of a folder's files begin with the file's name.
      delimiter: the text between context and choice.
    """
    if not data.is_dir():
        return measure_documents(load_choices(data), model, delimiter=delimiter)
    files = sorted(data.glob("*.jsonl"))
    if not files:
        raise UserError(f"evals.choices={data}: holds no .jsonl file; name one, or a folder of some")
    return [
        dataclasses.replace(row, metric=f"{file.stem}_{row.metric}")
        for file in files
        for row in measure_documents(load_choices(file), model, delimiter=delimiter)
    ]


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    return {"data": run.required_path("choices", "a .jsonl file of documents, or a folder of such")}


SUITE = Suite("your own multiple choice", measure, options)
