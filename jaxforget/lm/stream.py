"""Text that a model writes, a few tokens at a time."""

import functools
from collections.abc import Iterator, Sequence

import jax
import numpy as np

from jaxforget.lm.completion import end_tokens
from jaxforget.lm.generate import NOTHING, advance, bucket, check_prompts, pad_prompts, prefill, sampling_of
from jaxforget.lm.model import Model

CHUNK = 4  # tokens between two visits to the host

_prefill = jax.jit(prefill, static_argnames=("model", "room", "mesh"))
_advance = jax.jit(advance, static_argnames=("model", "mode", "mesh"), donate_argnames=("carry",))


def stream(
    model: Model,
    prompt: Sequence[int],
    *,
    new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    chunk: int = CHUNK,
) -> Iterator[list[int]]:
    """Yield the new token ids of one prompt in groups of at most `chunk`, without the end token.

    All groups together are what `lm.generate.generate` returns for the same settings. The caller may stop at any group.

    Args:
      model: a loaded model.
      prompt: token ids, at least one.
      new_tokens: largest number of new tokens.
      temperature, top_p, top_k, seed: as of `lm.generate.generate`.
      chunk: tokens that are generated between two groups.

    Raises:
      UserError: an empty prompt, or a setting out of range.
    """
    check_prompts([prompt], model.config.vocab_size, new_tokens, temperature, top_p, top_k)
    mode, settings = sampling_of(model.module, temperature, top_p, top_k, end_tokens(model))
    tokens, lengths = pad_prompts([prompt], 0, model.mesh)
    real = np.arange(len(tokens)) < 1
    key = jax.random.key(seed)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(np.zeros(len(tokens), np.int32))
    carry = _prefill(model.module, model.params, tokens, lengths, real, room=bucket(new_tokens), mesh=model.mesh)
    done = 0
    while done < new_tokens:
        until = min(done + chunk, new_tokens)
        carry = _advance(
            model.module, model.params, carry, lengths, np.int32(until), keys, settings, mode=mode, mesh=model.mesh
        )
        made = np.asarray(carry[3])[0, done:until]
        new = [int(token) for token in made[made != NOTHING]]
        if new:
            yield new
        if len(new) < until - done:
            return
        done = until
