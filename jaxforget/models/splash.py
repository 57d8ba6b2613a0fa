"""Splash attention on TPUs: JAX's own flash kernel, a tile of scores at a time in the chip's vector memory.

No scores reach HBM, forward or backward. `attention.attend` computes the same where the kernel does not apply: in fp32,
for heads of another width, for fewer than 128 tokens, on a CPU, a GPU, or a TPU before v4.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import Mesh, PartitionSpec

from jaxforget.models.attention import EVERYTHING, KEPT_NAME, Scope, attend
from jaxforget.sharding import ROW_AXES, row_shards

Array = jax.Array
LANES = 128  # width of a vector; a tile is a multiple of it
LARGEST = 1024  # queries and slots of a tile at most
USUAL = 512  # queries and slots of a tile, where one tile does not hold the block
WIDTHS = (64, 128, 256)  # of heads; tiles of wider ones do not fit a v4's vector memory
OLD = ("TPU v2", "TPU v3")


@dataclasses.dataclass(frozen=True)
class SplashAttention:
    """Splash attention of a block to itself; it calls `attend` where `serves` returns False.

    Every device computes its own rows and heads. Layers with different windows need one kernel for each window; a
    conditional runs the right one.

    Attributes:
      mesh: devices; rows are split over `data` and `fsdp`, heads over `tensor`.
      interpret: run the kernel as plain JAX, on any backend: slow, for tests.
    """

    mesh: Mesh
    interpret: bool = False

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        positions: Array,
        scope: Scope = EVERYTHING,
        layer: Array | None = None,
    ) -> Array:
        """Return the result of `attend` for the same arguments, [B, S, H, E]."""
        if not self.serves(query, key):
            return attend(query, key, value, positions, scope, layer)
        scope = scope.within(key.shape[1])
        rows = PartitionSpec(ROW_AXES, None, "tensor")
        # One window is static; of several, the layer's index picks the kernel.
        layer = None if len(scope.windows) == 1 else layer
        mapped = jax.shard_map(
            functools.partial(self._local, scope),
            mesh=self.mesh,
            in_specs=(rows, rows, rows, PartitionSpec()),
            out_specs=rows,
            check_vma=False,
        )
        return mapped(query, key, value, layer)

    def serves(self, query: Array, key: Array) -> bool:
        """Return True if the kernel takes these arrays and `mesh` divides them."""
        rows, length, _, width = query.shape
        return (
            query.dtype == jnp.bfloat16
            and key.shape[1] == length >= LANES
            and width in WIDTHS
            and key.shape[2] % self.mesh.shape["tensor"] == 0
            and rows % row_shards(self.mesh) == 0
        )

    def _local(self, scope: Scope, query: Array, key: Array, value: Array, layer: Array | None) -> Array:
        kernels = [functools.partial(self._kernel, window, scope.soft_cap) for window in scope.windows]
        return kernels[0](query, key, value) if layer is None else jax.lax.switch(layer, kernels, query, key, value)

    def _kernel(self, window: int | None, soft_cap: float | None, query: Array, key: Array, value: Array) -> Array:
        length, heads = query.shape[1:3]
        tile, whole = tiling(length)
        # No query of the block sees the padding behind its end.
        query, key, value = (jnp.pad(x, ((0, 0), (0, whole - length), (0, 0), (0, 0))) for x in (query, key, value))
        passes = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
        seen = (
            masks.CausalMask((whole, whole)) if window is None else masks.LocalMask((whole, whole), (window - 1, 0), 0)
        )
        splash = kernel.make_splash_mha(
            masks.MultiHeadMask([seen] * heads),
            block_sizes=kernel.BlockSizes(**{f"block_{name}": tile for name in passes}),
            head_shards=1,
            q_seq_shards=1,
            residual_checkpoint_name=KEPT_NAME,
            attn_logits_soft_cap=soft_cap,
            interpret=self.interpret,
        )

        def row(arrays: tuple[Array, Array, Array]) -> Array:
            return jnp.moveaxis(splash(*(jnp.moveaxis(x, 0, 1) for x in arrays)), 0, 1)  # heads first and back

        # One row at a time: its heads are enough work, and all rows at once would need copies in another layout.
        return jax.lax.map(row, (query, key, value))[:, :length]


def tiling(length: int) -> tuple[int, int]:
    """Return the tile and the length that a block of `length` is padded to: one tile, or a multiple of tiles."""
    whole = -(-length // LANES) * LANES
    if whole <= LARGEST:
        return whole, whole
    tile = LARGEST if whole % LARGEST == 0 else USUAL
    return tile, -(-whole // tile) * tile


def has_splash(mesh: Mesh) -> bool:
    """Return True if the devices of `mesh` are TPUs that the kernel supports (v4 and later)."""
    device = mesh.devices.flat[0]
    return device.platform == "tpu" and device.device_kind not in OLD
