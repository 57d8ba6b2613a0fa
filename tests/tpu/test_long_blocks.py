"""Blocks of 4096 tokens, by the real TPU compiler: attention's memory follows a chunk of queries, not the block."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxforget.models.attention import attend
from jaxforget.models.splash import SplashAttention
from jaxforget.sharding import make_mesh
from jaxforget.tpu.compiler import no_cache
from jaxforget.tpu.topology import find_slice, slice_devices

ROWS, HEADS, WIDTH = 2, 32, 128  # Llama-2-7B's; 16 blocks of 4096 on eight chips


def temporaries(length: int, *, splash: bool) -> int:
    """Bytes beside arguments and results that attention and its gradients need on one v5e chip."""
    devices = slice_devices(find_slice("v5e-1"))
    device = NamedSharding(make_mesh(devices=devices), PartitionSpec())
    attention = SplashAttention(make_mesh(devices=devices)) if splash else attend
    x = jax.ShapeDtypeStruct((ROWS, length, HEADS, WIDTH), jnp.bfloat16, sharding=device)
    positions = jax.ShapeDtypeStruct((ROWS, length), jnp.int32, sharding=device)

    def loss(query, key, value, positions):
        return jnp.sum(attention(query, key, value, positions).astype(jnp.float32))

    with no_cache():
        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x, positions).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("splash", [False, True], ids=["plain", "splash"])
def test_scores_never_exist_whole(splash):
    whole = ROWS * HEADS * 4096**2 * 4  # fp32: 4 GiB
    assert temporaries(4096, splash=splash) < whole / 4
