"""Splash attention on TPUs: JAX's own flash kernel, a tile of scores at a time in the chip's vector memory.

No scores reach HBM, forward or backward. Where the kernel does not serve (fp32, heads of another width, fewer than 128
tokens, a CPU or a GPU, a TPU before v4) attention is `attention.attend`, its equal.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh, PartitionSpec

from jaxforget.models.attention import KEPT_NAME, attend

Array = jax.Array
LANES = 128  # a vector's width, of which a tile is a whole multiple
LARGEST = 1024  # queries, and slots, of a tile
USUAL = 512  # of a tile where one does not hold the block
WIDTHS = (64, 128, 256)  # of heads: tiles of wider ones outgrow a v4's vector memory
OLD = ("TPU v2", "TPU v3")


@dataclasses.dataclass(frozen=True)
class SplashAttention:
    """`attend` of a block's queries to itself, by the kernel; every device its rows and heads of `mesh`.

    interpret: run the kernel as plain JAX, on any backend: slow, for tests.
    """

    mesh: Mesh
    interpret: bool = False

    def __call__(self, query: Array, key: Array, value: Array, positions: Array) -> Array:
        """As `attend`: query [B,S,H,E], scaled; key and value [B,T,K,E], positions int [B,S] -> [B,S,H,E]."""
        if not self.serves(query, key):
            return attend(query, key, value, positions)
        rows = PartitionSpec(("data", "fsdp"), None, "tensor")
        mapped = jax.shard_map(
            self._local, mesh=self.mesh, in_specs=(rows, rows, rows), out_specs=rows, check_vma=False
        )
        return mapped(query, key, value)

    def serves(self, query: Array, key: Array) -> bool:
        """Whether the kernel takes these, and `mesh` divides them."""
        rows, length, _, width = query.shape
        shape = self.mesh.shape
        return (
            query.dtype == jnp.bfloat16
            and key.shape[1] == length >= LANES
            and width in WIDTHS
            and key.shape[2] % shape["tensor"] == 0
            and rows % (shape["data"] * shape["fsdp"]) == 0
        )

    def _local(self, query: Array, key: Array, value: Array) -> Array:
        length, heads = query.shape[1:3]
        tile, whole = tiling(length)
        # Behind the end no query of the block looks, so what stands there is no matter.
        query, key, value = (jnp.pad(x, ((0, 0), (0, whole - length), (0, 0), (0, 0))) for x in (query, key, value))
        passes = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
        splash = kernel.make_splash_mha(
            masks.MultiHeadMask([masks.CausalMask((whole, whole))] * heads),
            block_sizes=kernel.BlockSizes(**{f"block_{name}": tile for name in passes}),
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=KEPT_NAME,
            interpret=self.interpret,
        )

        def row(arrays: tuple[Array, Array, Array]) -> Array:
            return jnp.moveaxis(splash(*(jnp.moveaxis(x, 0, 1) for x in arrays)), 0, 1)  # heads first and back

        # Row by row: the heads of one are work enough, and of all rows at once copies in another layout would be made.
        return jax.lax.map(row, (query, key, value))[:, :length]


def tiling(length: int) -> tuple[int, int]:
    """(tile, tokens that a block of `length` is filled up to): one tile where it holds the block, else whole tiles."""
    whole = -(-length // LANES) * LANES
    if whole <= LARGEST:
        return whole, whole
    tile = LARGEST if whole % LARGEST == 0 else USUAL
    return tile, -(-whole // tile) * tile


def has_splash(mesh: Mesh) -> bool:
    """Whether `mesh` is of TPUs that the kernel is made for."""
    device = mesh.devices.flat[0]
    return device.platform == "tpu" and device.device_kind not in OLD
