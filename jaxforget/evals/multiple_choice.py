"""Multiple choice, as EleutherAI's lm-evaluation-harness asks and scores it, on documents of one's own."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.errors import UserError
from jaxforget.evals.evidence import mean_evidence
from jaxforget.evals.records import NUMBER, TEXTS, Field, read_records
from jaxforget.lm.prompts import encode_prompts

# (token ids of beginning and ending of each) -> (summed log-likelihood, whether every token is the likeliest)
Score = Callable[[Sequence[tuple[Sequence[int], Sequence[int]]]], list[tuple[float, bool]]]
CONVENTIONS = {
    "acc": "argmax of summed log-likelihood",
    "acc_norm": "argmax of summed log-likelihood / characters of the choice (lm-evaluation-harness)",
    "acc_bytes": "argmax of summed log-likelihood / bytes of the choice (lm-evaluation-harness)",
}
# Nothing may stand before a choice: then it follows the begin token alone.
CONTEXT = Field("a text", lambda value: isinstance(value, str))


@dataclasses.dataclass(frozen=True)
class Document:
    """A context, the choices that may follow it, and the right one's number.

    `where` it stands, for messages. With an `ending` the choices are contexts, and it is scored after each.
    """

    context: str
    choices: tuple[str, ...]
    answer: int
    where: str = "document"
    ending: str | None = None

    def pairs(self) -> list[tuple[str, str]]:
        """What stands before and what is scored, of every choice."""
        if self.ending is not None:
            return [(choice, self.ending) for choice in self.choices]
        return [(self.context, choice) for choice in self.choices]


def load_choices(path: str | Path) -> list[Document]:
    """Reads documents {"context", "choices", "answer"} from .jsonl (or a .json list); `answer` counts from 0.

    Raises:
      UserError: the file is missing or empty, or a field is missing or unfit; names the file, the line and the field.
    """
    documents = []
    for record in read_records(path, {"context": CONTEXT, "choices": TEXTS, "answer": NUMBER}):
        if record["answer"] >= len(record["choices"]):
            raise UserError(
                f"{record.where}: answer is {record['answer']}, but there are {len(record['choices'])} choices, "
                "counted from 0"
            )
        documents.append(Document(record["context"], tuple(record["choices"]), record["answer"], record.where))
    return documents


def encode_choices(
    documents: Sequence[Document], tokenizer: Any, *, delimiter: str = " "
) -> list[tuple[list[int], list[int]]]:
    """Token ids of every choice of every document, as (what stands before it, its own).

    Context, delimiter and choice are tokenised as one text, as the tokenizer does by itself; the choice's tokens are
    those beyond as many as the context has alone. White space at the context's end belongs to the choice. An empty
    context becomes the begin token (or the end token where there is none), whatever the tokenizer adds.

    Raises:
      UserError: no token is left for a choice.
    """
    asked = [(context, delimiter + choice, d) for d in documents for context, choice in d.pairs()]
    bare = [context.rstrip() for context, _, _ in asked]
    # In a few calls: one for every text would take longer than the model does.
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
    """A beginning and its ending within `max_length` positions: what stands first is left out.

    A text of n tokens needs n - 1 positions: the last is only predicted.
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
    """Summed log-likelihood of every choice of every document, fp64 [choices] each.

    Args:
      documents: from `load_choices`.
      score: the model's, as `jaxforget.lm.continuations.ContinuationScorer` gives.
      tokenizer: the model's.
      delimiter: between context and choice.
      max_length: positions; the beginning of a longer text is left out. None: none is.
    """
    pairs = encode_choices(documents, tokenizer, delimiter=delimiter)
    if max_length is not None:
        pairs = [cut_pair(*pair, max_length) for pair in pairs]
    sums = np.array([total for total, _ in score(pairs)])
    ends = np.cumsum([len(document.choices) for document in documents])
    return list(np.split(sums, ends[:-1]))


def right_answers(documents: Sequence[Document], likelihoods: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Whether each document is answered rightly, bool [documents], by `acc`, `acc_norm` and `acc_bytes`.

    Of equal choices the first is taken. `acc_norm` divides by characters, as the harness does; it and `acc_bytes` part
    only on text beyond ASCII.
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


def multiple_choice_rows(
    documents: Sequence[Document],
    *,
    score: Score,
    tokenizer: Any,
    model: str,
    delimiter: str = " ",
    max_length: int | None = None,
    metrics: Sequence[str] = tuple(CONVENTIONS),
) -> list[dict[str, Any]]:
    """`metrics` of acc, acc_norm and acc_bytes, zero-shot, with 95 % bootstrap intervals over documents."""
    sums = choice_likelihoods(documents, score, tokenizer, delimiter=delimiter, max_length=max_length)
    right = right_answers(documents, sums)
    return [mean_evidence(metric, CONVENTIONS[metric], model, right[metric]) for metric in metrics]
