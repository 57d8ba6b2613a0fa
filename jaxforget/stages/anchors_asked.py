"""A language model asked for anchors: behind an endpoint, or loaded here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxforget.anchors.asking import Expressions, choose_passages, questions, unite
from jaxforget.anchors.offline import Found
from jaxforget.corpus.text import Document
from jaxforget.endpoint import Answer, Endpoint, settings_from
from jaxforget.endpoint.answers import Answers, Messages, UnusableError, instructed, parse, request_hash
from jaxforget.errors import UserError
from jaxforget.lm.model import Model, complete, load
from jaxforget.models.folders import resolve_folder
from jaxforget.stages.run import Run, wait_for_all

UNUSABLE = 0.1  # of all answers, how many may be nonsense


def find_by_asking(run: Run, documents: Sequence[Document]) -> Found:
    """The dictionary that the answers give; every answer is kept in anchors.answers.jsonl, so a broken run goes on."""
    options = run.config.anchors
    passages = choose_passages(documents, options.calls, run.config.seed)
    asked = questions(passages)
    tolerate = max(1, int(UNUSABLE * len(asked)))
    if run.finder == "endpoint":
        answers = _ask_endpoint(run, asked, tolerate)
    else:
        answers = LocalModel(run).ask(asked, answers=run.answers, schema=Expressions, tolerate=tolerate, say=run.say)
    anchors, notes = unite(passages, [None if one is None else one.value for one in answers], documents)
    if not anchors.entries:
        raise UserError(
            f"anchors: {len(asked)} answers name no expression that the text holds; look at {run.answers}, or take "
            "another model"
        )
    unusable = sum(one is None for one in answers)
    if unusable:
        notes.append(f"{unusable} of {len(asked)} answers could not be used")
    return Found(anchors, tuple(notes))


def preview(run: Run, documents: Sequence[Document]) -> str:
    """What an endpoint would be asked: the number of calls, a rough cost, and one prompt in full. Asks nothing."""
    asked = questions(choose_passages(documents, run.config.anchors.calls, run.config.seed))
    endpoint = Endpoint(settings_from(run.config.endpoint, asks=False))
    return endpoint.preview(asked, answers=run.answers, schema=Expressions)


def _ask_endpoint(run: Run, asked: Sequence[Messages], tolerate: int) -> list[Answer | None]:
    """Asked by the first process; the others read its answers."""
    endpoint = Endpoint(settings_from(run.config.endpoint))
    if jax.process_index() == 0:
        found = endpoint.ask(asked, answers=run.answers, schema=Expressions, tolerate=tolerate, say=run.say)
        run.say(f"  {endpoint.cost_line()}")
    wait_for_all("anchors: answers")
    if jax.process_index():
        found = endpoint.ask(asked, answers=run.answers, schema=Expressions, tolerate=tolerate)
    return found


class LocalModel:
    """A chat model that this program loads, asked like an endpoint: greedy, a batch of questions at a time."""

    def __init__(self, run: Run):
        config = run.config
        if config.anchors.model is None:
            raise UserError("anchors.model is not set; it names the chat model that anchors.extractor=local asks")
        folder, model = resolve_folder(config.anchors.model), config.model
        self._model: Model = load(folder, model.dtype, run.mesh, attention=model.attention)
        self._rows, self._tokens = config.evals.batch, config.anchors.answer_tokens

    def ask(
        self,
        questions: Sequence[Messages],
        *,
        answers: str | Path,
        schema: Any,
        tolerate: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> list[Answer | None]:
        """As `jaxforget.endpoint.Endpoint.ask`, but that an unusable answer is not sent back.

        Raises:
          UserError: a question that is too long for the model; more than `tolerate` answers cannot be used.
        """
        file = Answers(answers)
        asked = [instructed(messages, schema) for messages in questions]
        keys = [request_hash(str(self._model.folder), messages, {"max_tokens": self._tokens}) for messages in asked]
        stored = file.read()
        missing = [number for number, key in enumerate(keys) if key not in stored]
        faults: list[str] = []
        for first in range(0, len(missing), self._rows):
            part = missing[first : first + self._rows]
            texts = complete(self._model, [self._prompt(asked[number]) for number in part], self._tokens)
            for number, text in zip(part, texts, strict=True):
                usable = _fits(text, schema, faults)
                if usable:
                    stored[keys[number]] = text
                if jax.process_index() == 0:
                    file.keep(keys[number], usable=usable, answer=text, model=str(self._model.folder))
            if say is not None:
                say(f"  {len(keys) - len(missing) + first + len(part)} of {len(keys)} answers")
        if len(faults) > tolerate:
            raise UserError(
                f"{self._model.folder}: {len(faults)} of {len(missing)} answers cannot be used, the first because "
                f"{faults[0]}; take a model that follows instructions, or raise anchors.answer_tokens"
            )
        return [Answer(parse(stored[k], schema), stored[k], kept=True) if k in stored else None for k in keys]

    def _prompt(self, messages: Messages) -> str:
        """The question as the model's own chat template writes it, or as plain text where it has none."""
        tokenizer = self._model.tokenizer
        if getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            # The template writes the BOS that the tokenizer adds again.
            return text.removeprefix(tokenizer.bos_token or "")
        return "\n\n".join(message["content"] for message in messages) + "\n\nAnswer:\n"


def _fits(text: str, schema: Any, faults: list[str]) -> bool:
    """Whether an answer can be used; else its fault is noted in `faults`."""
    try:
        parse(text, schema)
    except UnusableError as error:
        faults.append(str(error))
        return False
    return True
