"""Texts completed by a model: prompts in, what follows them out."""

from collections.abc import Sequence
from typing import Any

from jaxforget.errors import UserError
from jaxforget.model import Model
from jaxforget.models.generate import generate


def complete(model: Model, prompts: Sequence[str], new_tokens: int, **sampling: Any) -> list[str]:
    """The text that follows each prompt; greedy unless `sampling` (see `models.generate.generate`) says otherwise.

    Raises:
      UserError: a prompt and its new tokens are beyond the positions that the model was trained on.
    """
    if not prompts:
        return []
    ids = [model.tokenizer(prompt)["input_ids"] for prompt in prompts]
    room = model.config.max_position_embeddings
    for prompt, tokens in zip(prompts, ids, strict=True):
        if len(tokens) + new_tokens > room:
            raise UserError(
                f"prompt {shortened(prompt)!r}: its {len(tokens)} tokens and {new_tokens} new ones are beyond the "
                f"{room} positions of {model.folder}; ask for fewer"
            )
    eos = model.config.eos_token_id
    new = generate(
        model.module,
        model.params,
        ids,
        max_new_tokens=new_tokens,
        eos_ids=() if eos is None else eos if isinstance(eos, tuple) else (eos,),
        mesh=model.mesh,
        **sampling,
    )
    return [continuation(model.tokenizer, prompt, made) for prompt, made in zip(prompts, new, strict=True)]


def shortened(text: str, length: int = 40) -> str:
    """`text` on one line, cut."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def continuation(tokenizer: Any, prompt: str, new_ids: list[int]) -> str:
    """The text that `new_ids` add to `prompt`: decoding them alone would lose the space before the first word."""
    before = tokenizer(prompt)["input_ids"]
    whole = tokenizer.decode([*before, *new_ids], skip_special_tokens=True)
    return whole[len(tokenizer.decode(before, skip_special_tokens=True)) :]
