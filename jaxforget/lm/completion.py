"""Text that a model writes after a prompt."""

from collections.abc import Sequence
from typing import Any

from jaxforget.corpus.prompts import encode_prompt, encode_prompts
from jaxforget.errors import UserError
from jaxforget.lm.generate import Complete, generate
from jaxforget.lm.model import Model


def completer(model: Model, **sampling: Any) -> Complete:
    """Return a function that generates: (token ids of prompts, new tokens) -> new token ids without the end token.

    Args:
      model: generation stops at its end tokens, `model.config.eos_token_id`.
      sampling: temperature, top_p, top_k and seed of `lm.generate.generate`; greedy by default.
    """
    ends = end_tokens(model)

    def complete(prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        return generate(
            model.module, model.params, prompts, max_new_tokens=new_tokens, eos_ids=ends, mesh=model.mesh, **sampling
        )

    return complete


def end_tokens(model: Model) -> tuple[int, ...]:
    """Return the ids at which generation stops."""
    eos = model.config.eos_token_id
    return () if eos is None else eos if isinstance(eos, tuple) else (eos,)


def complete(model: Model, prompts: Sequence[str], new_tokens: int, **sampling: Any) -> list[str]:
    """Return the text that follows each prompt.

    Args:
      model: a loaded model.
      prompts: texts to continue.
      new_tokens: at most this many tokens for each prompt.
      sampling: temperature, top_p, top_k and seed of `lm.generate.generate`; greedy by default.

    Raises:
      UserError: a prompt and its new tokens exceed the positions that the model was trained on.
    """
    if not prompts:
        return []
    ids = encode_prompts(model.tokenizer, prompts)
    room = model.config.max_position_embeddings
    for prompt, tokens in zip(prompts, ids, strict=True):
        if len(tokens) + new_tokens > room:
            raise UserError(
                f"prompt {shortened(prompt)!r}: its {len(tokens)} tokens and {new_tokens} new ones are beyond the "
                f"{room} positions of {model.folder}; shorten it"
                + (", or ask for fewer new tokens" if len(tokens) < room else "")
            )
    new = completer(model, **sampling)(ids, new_tokens)
    return [continuation(model.tokenizer, prompt, made) for prompt, made in zip(prompts, new, strict=True)]


def shortened(text: str, length: int = 40) -> str:
    """Return `text` on one line, cut to `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 3] + "..."


def continuation(tokenizer: Any, prompt: str, new_ids: list[int]) -> str:
    """Return the text that `new_ids` add to `prompt`.

    Prompt and new ids are decoded together: the new ids alone would lose the space before the first word.
    """
    before = encode_prompt(tokenizer, prompt)
    whole = tokenizer.decode([*before, *new_ids], skip_special_tokens=True)
    return whole[len(tokenizer.decode(before, skip_special_tokens=True)) :]
