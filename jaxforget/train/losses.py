"""Losses of a tile of tokens: the loss of each token and its gradient with respect to the logits.

Every function takes logits fp32 [T, V] and returns (loss fp32 [T], gradient fp32 [T, V]) in nats. The gradient is
written out rather than derived, so that a tile's logits become their own gradient in place. The exponentials are
computed twice and never stored: that saves one array of the tile's size to write, read and hold.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def log_normalizer(logits: Array) -> Array:
    """Return the logarithm of the summed exponentials of each row, fp32 [T, 1]."""
    peak = jnp.max(logits, axis=-1, keepdims=True)
    return jnp.log(jnp.sum(jnp.exp(logits - peak), axis=-1, keepdims=True)) + peak


def one_hot(label: Array, logits: Array) -> Array:
    """Return fp32 [T, V] with a 1 at each row's `label` (int32 [T]), in the shape of `logits`."""
    return (jax.lax.broadcasted_iota(jnp.int32, logits.shape, 1) == label[:, None]).astype(jnp.float32)


def cross_entropy(logits: Array, label: Array) -> tuple[Array, Array]:
    """Cross-entropy to a label, int32 [T]."""
    total = log_normalizer(logits)
    target = one_hot(label, logits)
    loss = total[:, 0] - jnp.sum(target * logits, axis=-1)
    return loss, jnp.exp(logits - total) - target


def soft_cross_entropy(logits: Array, q: Array) -> tuple[Array, Array]:
    """Cross-entropy to a distribution q, fp32 [T, V]."""
    total = log_normalizer(logits)
    return total[:, 0] - jnp.sum(q * logits, axis=-1), jnp.exp(logits - total) - q


def kl_divergence(logits: Array, q: Array) -> tuple[Array, Array]:
    """KL(q || p), fp32 [T, V] q: the cross-entropy without q's entropy, so that 0 means that p equals q."""
    total = log_normalizer(logits)
    log_q = jnp.log(jnp.maximum(q, jnp.finfo(jnp.float32).tiny))
    return jnp.sum(q * (log_q - logits), axis=-1) + total[:, 0], jnp.exp(logits - total) - q
