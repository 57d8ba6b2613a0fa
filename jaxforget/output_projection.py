"""The output projection: logits from final hidden states, and the soft cap by which some families bound them."""

import jax
import jax.numpy as jnp


def logits_of(states: jax.Array, head: jax.Array, soft_cap: float | None) -> jax.Array:
    """Return the logits fp32 [..., V] of states [..., D] and an output projection [D, V]; products add up in fp32."""
    return soft_capped(jnp.dot(states, head, preferred_element_type=jnp.float32), soft_cap)


def soft_capped(x: jax.Array, soft_cap: float | None) -> jax.Array:
    """Return x [...] bounded smoothly to within +-soft_cap (Gemma 2); None leaves it as it is."""
    return x if soft_cap is None else soft_cap * jnp.tanh(x / soft_cap)


def soft_cap_gradient(capped: jax.Array, gradient: jax.Array, soft_cap: float | None) -> jax.Array:
    """Return the gradient [...] by what was capped, from the one by the `capped` values."""
    return gradient if soft_cap is None else gradient * (1 - jnp.square(capped / soft_cap))
