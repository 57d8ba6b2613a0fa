"""A conversation with one model: its history, the model's chat template, and answers that stream."""

from collections.abc import Iterator
from typing import Any

from jaxforget.corpus.prompts import encode_prompt
from jaxforget.errors import UserError, printable
from jaxforget.lm.model import Model
from jaxforget.lm.stream import stream


class Conversation:
    """The turns of one model.

    With a chat template, turns are messages. Without one, the model continues the text: the turns so far, each on lines
    of its own, and then the prompt.

    Args:
      model: a loaded model.
      sampling: temperature, top_p, top_k and seed of `lm.generate.generate`.
    """

    def __init__(self, model: Model, **sampling: Any):
        self.model, self._sampling = model, sampling
        self.has_template = bool(getattr(model.tokenizer, "chat_template", None))
        self.turns: list[tuple[str, str]] = []

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()

    def answer(self, prompt: str, new_tokens: int) -> Iterator[str]:
        """Yield the answer in pieces, and keep the turn; a caller that stops early keeps the answer so far.

        The oldest turns are dropped where the model has no room for all of them.

        Raises:
          UserError: the prompt alone exceeds the positions of the model.
        """
        ids = self._encode(prompt)
        room = self.model.config.max_position_embeddings
        while len(ids) + new_tokens > room and self.turns:
            del self.turns[0]
            ids = self._encode(prompt)
        if len(ids) + new_tokens > room:
            raise UserError(
                f"the prompt's {len(ids)} tokens and {new_tokens} new ones are beyond the {room} positions of "
                f"{self.model.folder}; write a shorter prompt or ask for fewer new tokens"
            )
        decode = self.model.tokenizer.decode
        before, new, told = decode(ids, skip_special_tokens=True), [], ""
        try:
            for group in stream(self.model, ids, new_tokens=new_tokens, **self._sampling):
                new += group
                # All ids together: tokens alone would lose spaces and split characters.
                text = decode([*ids, *new], skip_special_tokens=True)[len(before) :]
                complete = text.rstrip("\ufffd")  # the beginning of a character whose other bytes are still to come
                if len(complete) > len(told):
                    piece, told = complete[len(told) :], complete
                    yield printable(piece)
        finally:
            self.turns.append((prompt, told))

    def _encode(self, prompt: str) -> list[int]:
        tokenizer = self.model.tokenizer
        if not self.has_template:
            text = "".join(f"{said}{answer}\n" for said, answer in self.turns) + prompt
            return encode_prompt(tokenizer, text)
        messages = [
            {"role": role, "content": content}
            for said, answer in self.turns
            for role, content in (("user", said), ("assistant", answer))
        ]
        messages.append({"role": "user", "content": prompt})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # The template writes the opening tokens itself.
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
