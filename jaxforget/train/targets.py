"""Generic targets: suppression and equation 1 of WHP (arXiv 2310.02238, section 2.3), on tiles of logits.

The step, the cached labels and the Python API all compute generic labels by these functions, so that their labels are
equal bit for bit.
"""

import jax
import jax.numpy as jnp

Array = jax.Array
NEVER = jnp.iinfo(jnp.int32).max


def suppression_table(ids: Array, after: Array, vocab_size: int) -> Array:
    """Return the translated index after which each token is suppressed.

    The table has no position axis, so comparing it with a tile's positions suppresses by one fused `where`.

    Args:
      ids: int32 [B, K], recorded first tokens of translations; -1 = padding.
      after: int32 [B, K], the translated index at which each was recorded; it is suppressed at every later position.
      vocab_size: V.

    Returns:
      int32 [B, V]; `NEVER` for a token that is not suppressed.
    """
    table = jnp.full((ids.shape[0], vocab_size), NEVER, jnp.int32)
    # Padding is moved past the end, where "drop" discards it; -1 would wrap to the last token.
    ids = jnp.where(ids < 0, vocab_size, ids)
    return table.at[jnp.arange(ids.shape[0])[:, None], ids].min(after, mode="drop")


def suppress(v_base: Array, table_rows: Array, positions: Array) -> Array:
    """Replace base's logits of suppressed tokens by the mean over the vocabulary (METHOD.md section 4).

    Args:
      v_base: fp32 [T, V], base's logits.
      table_rows: int32 [T, V], the row of `suppression_table` for each position.
      positions: int32 [T], translated indices.

    Returns:
      fp32 [T, V]; the mean is that of the unchanged logits.
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
    """Return WHP equation 1, `v_base - alpha * ReLU(v_reinforced - v_base)`, for raw fp32 logits [..., V]."""
    return v_base - alpha * jax.nn.relu(v_reinforced - v_base)
