"""Rows of a training step: blocks of a text, or questions with the tokens of their answers marked."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxforget.corpus.prompts import encode_prompts
from jaxforget.corpus.questions import Question
from jaxforget.corpus.text import Document
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.corpus.variants import encode
from jaxforget.errors import UserError, first_line

ALTERNATES = ("alternate", "alternate_weights", "alternate_answer")  # of a batch: int32, fp32, fp32 [B, S]
LOOSE = 2  # tokens at the end of a prompt that a tokenizer may merge with the beginning of an answer


@dataclasses.dataclass(frozen=True)
class Row:
    """The tokens of one row, unpadded.

    Attributes:
      tokens: int32 [n].
      answer: fp32 [n], 1 for a token of the answer, its end token included; None for a block of a text, in which every
        token counts.
      alternate: the same question with an alternative answer, or None.
      cut: True if the end of the answer is missing because the row was full.
    """

    tokens: np.ndarray
    answer: np.ndarray | None = None
    alternate: "Row | None" = None
    cut: bool = False


@dataclasses.dataclass(frozen=True)
class Rendered:
    """A question with one answer as text: `prompt`, then `answer` (with the space before it), then `closing`."""

    prompt: str
    answer: str
    closing: str = ""


def cut_rows(
    documents: Iterable[Document],
    tokenizer: Any,
    *,
    length: int,
    mode: str = "document",
    template: str = "plain",
    alternates: Sequence[str] = (),
    seed: int = 0,
) -> tuple[list[Row], int]:
    """Return the rows of a source of text, of at most `length` tokens each, and the number of documents.

    Args:
      documents: texts, which are cut into blocks (`cut_blocks`), or questions, of which each is a row.
      tokenizer: a transformers tokenizer.
      length: tokens in a row.
      mode: how texts are cut.
      template: how questions are rendered: "plain", or by the tokenizer's "chat" template.
      alternates: alternative answers; one of them is drawn for every question, instead of one of its own.
      seed: of the draws.

    Raises:
      UserError: texts and questions in one source, a question that leaves no token for its answer, a template that the
        tokenizer lacks or that does not keep the answer as it is.
    """
    documents = iter(documents)
    first = next(documents, None)
    stream = documents if first is None else itertools.chain([first], documents)
    if first is None or first.question is None:
        blocks, count = cut_blocks(_of_one_kind(stream, False), tokenizer, length=length, mode=mode)
        return [Row(block) for block in blocks], count
    check_questions(tokenizer, mode, template)
    asked = [(one.name, one.question) for one in _of_one_kind(stream, True)]
    rows = _answer_rows(asked, [one.answer for _, one in asked], tokenizer, length, template)
    drawn = [_draw(alternates or one.alternates, seed, n) for n, (_, one) in enumerate(asked)]
    chosen = [n for n, alternate in enumerate(drawn) if alternate is not None]
    others = _answer_rows([asked[n] for n in chosen], [drawn[n] for n in chosen], tokenizer, length, template)
    for n, other in zip(chosen, others, strict=True):
        rows[n] = dataclasses.replace(rows[n], alternate=other)
    return rows, len(rows)


def check_questions(tokenizer: Any, mode: str, template: str) -> None:
    """Raise `UserError` unless questions can be rendered by `template` and cut in `mode`."""
    if mode != "document":
        raise UserError(
            f"blocks.mode={mode}: joins texts, but corpus.path or retain.path holds questions; set blocks.mode=document"
        )
    if template == "chat" and not getattr(tokenizer, "chat_template", None):
        raise UserError(
            f"corpus.template=chat: the tokenizer of {tokenizer.name_or_path or 'the model'} has no chat template; set "
            "corpus.template=plain"
        )


def render(question: Question, answer: str, tokenizer: Any, template: str) -> Rendered:
    """Return a question with an answer in the plain form (`Question.text`) or in the tokenizer's chat format."""
    if template == "plain":
        return Rendered(question.prompt, f" {answer}")

    def chat(answer: str) -> str:
        messages = [{"role": "user", "content": question.question}, {"role": "assistant", "content": answer}]
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False)
        # A template is a program of its own; it raises errors of many types.
        except Exception as error:
            raise UserError(
                f"corpus.template=chat: the chat template of {tokenizer.name_or_path or 'the model'} fails on a "
                f"question and an answer ({first_line(error)}); set corpus.template=plain"
            ) from None

    # The answer's place is where two answers without a common letter begin to differ and cease to.
    probes = [chat("a"), chat("b")]
    prompt = os.path.commonprefix(probes)
    closing = os.path.commonprefix([probe[len(prompt) :][::-1] for probe in probes])[::-1]
    if chat(answer) != prompt + answer + closing:
        raise UserError(
            f"corpus.template=chat: the chat template of {tokenizer.name_or_path or 'the model'} changes the answer "
            f"{answer[:40]!r}; set corpus.template=plain"
        )
    # A space before the answer is the answer's to predict: prompts of a chat end before it.
    opened = prompt.rstrip(" ")
    return Rendered(opened, prompt[len(opened) :] + answer, closing)


def _of_one_kind(documents: Iterable[Document], asks: bool) -> Iterable[Document]:
    for document in documents:
        if (document.question is not None) != asks:
            raise UserError(
                f"{document.name}: holds {'a text' if asks else 'a question'}, but the files before it hold "
                f"{'questions' if asks else 'texts'}; name one kind"
            )
        yield document


def _draw(alternates: Sequence[str], seed: int, number: int) -> str | None:
    """Return one of the alternative answers of row `number`; None if it has none."""
    if not alternates:
        return None
    # The last number keeps this stream apart from those of translations and held-out blocks.
    return alternates[int(np.random.default_rng((seed, number, 2)).integers(len(alternates)))]


def _answer_rows(
    asked: Sequence[tuple[str, Question]], answers: Sequence[str], tokenizer: Any, length: int, template: str
) -> list[Row]:
    """Return the row of each (name, question) with its answer."""
    rendered = [render(one, answer, tokenizer, template) for (_, one), answer in zip(asked, answers, strict=True)]
    # A chat template writes the opening tokens itself.
    tokens_of = encode if template == "chat" else encode_prompts
    prompts = tokens_of(tokenizer, [one.prompt for one in rendered])
    wholes = tokens_of(tokenizer, [one.prompt + one.answer + one.closing for one in rendered])
    special = _special_ids(tokenizer)
    closing = encode(tokenizer, [rendered[0].closing])[0] if rendered else []
    ends = sum(token in special for token in closing)  # special tokens after an answer; the first one ends it
    rows = []
    for (name, _), one, prompt, whole in zip(asked, rendered, prompts, wholes, strict=True):
        start = len(os.path.commonprefix([prompt, whole]))
        if start < len(prompt) - LOOSE:
            raise UserError(
                f"{name}: the tokenizer spells the question in another way when an answer follows it; reword the "
                f"question near {one.prompt[-20:]!r}"
            )
        if ends:
            whole = whole[: [at for at, token in enumerate(whole) if token in special][-ends] + 1]
        elif closing:
            whole = encode(tokenizer, [one.prompt + one.answer])[0]
        if not 0 < start < min(length, len(whole)):
            raise UserError(
                f"{name}: the question takes {start} of blocks.length={length} tokens and leaves none for its answer; "
                "raise blocks.length, or shorten the question"
            )
        tokens = np.array(whole[:length], np.int32)
        rows.append(Row(tokens, (np.arange(len(tokens)) >= start).astype(np.float32), cut=len(whole) > length))
    return rows


def _special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of tokens that stand for no text: those of the tokenizer's roles, and those of its formats."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(index for index, token in added.items() if token.special)}
    return special - {tokenizer.unk_token_id}
