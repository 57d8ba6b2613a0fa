"""Generic targets: suppression and equation 1 of WHP (arXiv 2310.02238, section 2.3), on tiles of logits.

These few functions are the only place where a generic label is made: the step, the cached labels and the Python API all
call them, which is what makes their labels equal bit for bit.
"""

import jax
import jax.numpy as jnp

Array = jax.Array
NEVER = jnp.iinfo(jnp.int32).max


def suppression_table(ids: Array, after: Array, vocab_size: int) -> Array:
    """The translated index from which on each word is suppressed: int32 [B, V], `NEVER` where it is not.

    Args:
      ids: int32 [B, K], recorded first tokens of translations; -1 = padding.
      after: int32 [B, K], the translated index each was recorded at; suppressed at every later position.
      vocab_size: V.

    It has rows and words but no token axis, so comparing it with a tile's positions suppresses by one fused `where`.
    """
    table = jnp.full((ids.shape[0], vocab_size), NEVER, jnp.int32)
    # Padding is sent past the end, where "drop" discards it; -1 itself would wrap to the last word.
    ids = jnp.where(ids < 0, vocab_size, ids)
    return table.at[jnp.arange(ids.shape[0])[:, None], ids].min(after, mode="drop")


def suppress(v_base: Array, table_rows: Array, positions: Array) -> Array:
    """Replaces suppressed words' base logits by the mean over the vocabulary, taken before (METHOD.md section 4).

    v_base fp32 [T, V]; table_rows int32 [T, V], tokens' rows of `suppression_table`; positions int32 [T], translated.
    """
    mean = jnp.mean(v_base, axis=-1, keepdims=True)
    return jnp.where(positions[:, None] > table_rows, mean, v_base)


def without(logits: Array, tokens: tuple[int, ...]) -> Array:
    """Return logits [T, V] with those of `tokens` replaced by each row's mean, so that none is the argmax."""
    if not tokens:
        return logits
    barred = jnp.zeros(logits.shape[-1], bool).at[jnp.array(tokens)].set(True)
    return jnp.where(barred, jnp.mean(logits, axis=-1, keepdims=True), logits)


def generic_logits(v_base: Array, v_reinforced: Array, alpha: float) -> Array:
    """WHP equation 1: `v_base - alpha * ReLU(v_reinforced - v_base)`, elementwise on raw fp32 logits [..., V]."""
    return v_base - alpha * jax.nn.relu(v_reinforced - v_base)
