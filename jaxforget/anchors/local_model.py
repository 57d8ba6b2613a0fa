"""A chat model loaded in this process that answers questions as an endpoint does."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxforget.endpoint import Answer
from jaxforget.endpoint.answers import Answers, Messages, UnusableError, instructed, parse, request_hash
from jaxforget.errors import UserError
from jaxforget.lm.completion import complete
from jaxforget.lm.model import Model


class LocalModel:
    """A chat model in memory that answers like an endpoint: greedily, one batch of questions at a time.

    Args:
      model: the loaded model.
      content: fingerprint of the model, its tokenizer and its dtype: an answer of another content is not used.
      batch: questions answered at a time.
      answer_tokens: maximum tokens of an answer.
    """

    def __init__(self, model: Model, content: str, *, batch: int, answer_tokens: int):
        self._model, self._content, self._rows, self._tokens = model, content, batch, answer_tokens

    def ask(
        self,
        questions: Sequence[Messages],
        *,
        answers: str | Path,
        schema: Any,
        tolerate: int = 0,
        say: Callable[[str], None] | None = None,
    ) -> list[Answer | None]:
        """Answer questions as `jaxforget.endpoint.Endpoint.ask` does, except that nothing is asked twice.

        Args:
          questions: chat messages.
          answers: the file of all answers; a question that it answers is not asked again.
          schema: the pydantic model that an answer must fit.
          tolerate: maximal number of unusable answers; each of them gives None.
          say: prints a line of progress.

        Raises:
          UserError: a question is too long for the model; more than `tolerate` answers are unusable.
        """
        file = Answers(answers)
        asked = [instructed(messages, schema) for messages in questions]
        keys = [request_hash(self._content, messages, {"max_tokens": self._tokens}) for messages in asked]
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
                f"{self._model.folder}: {len(faults)} of {len(missing)} answers are unusable, the first because "
                f"{faults[0]}; use a model that follows instructions, or raise anchors.answer_tokens"
            )
        return [Answer(parse(stored[k], schema), stored[k], cached=True) if k in stored else None for k in keys]

    def _prompt(self, messages: Messages) -> str:
        """Return the question in the model's chat template, or as plain text if it has none."""
        tokenizer = self._model.tokenizer
        if getattr(tokenizer, "chat_template", None):
            text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
            # The template already contains the BOS that the tokenizer adds.
            return text.removeprefix(tokenizer.bos_token or "")
        return "\n\n".join(message["content"] for message in messages) + "\n\nAnswer:\n"


def _fits(text: str, schema: Any, faults: list[str]) -> bool:
    """Return True if an answer can be used; otherwise add the reason to `faults`."""
    try:
        parse(text, schema)
    except UnusableError as error:
        faults.append(str(error))
        return False
    return True
