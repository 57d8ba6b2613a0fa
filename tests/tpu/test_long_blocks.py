"""Blocks of 4096 tokens, by the real TPU compiler: attention's memory follows a chunk of queries, not the block."""

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jaxforget.models.attention import attend
from jaxforget.tpu.compiler import no_cache
from jaxforget.tpu.topology import find_slice, slice_devices

ROWS, HEADS, WIDTH = 2, 32, 128  # Llama-2-7B's; 16 blocks of 4096 on eight chips


def temporaries(length: int) -> int:
    """Bytes beside arguments and results that attention and its gradients need on one v5e chip."""
    device = SingleDeviceSharding(slice_devices(find_slice("v5e-1"))[0])
    x = jax.ShapeDtypeStruct((ROWS, length, HEADS, WIDTH), jnp.bfloat16, sharding=device)
    positions = jax.ShapeDtypeStruct((ROWS, length), jnp.int32, sharding=device)

    def loss(query, key, value, positions):
        return jnp.sum(attend(query, key, value, positions).astype(jnp.float32))

    with no_cache():
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, positions).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_scores_never_exist_whole():
    whole = ROWS * HEADS * 4096**2 * 4  # fp32: 4 GiB
    assert temporaries(4096) < whole / 4
