"""cuDNN's flash attention on NVIDIA GPUs: a tile of scores at a time in the chip's shared memory.

No scores reach the card's memory, forward or backward. Plain attention (`attention.attend`), which gives the same
result within bfloat16's rounding, runs in every other case: fp32, heads of an unsupported width, fewer than 128 tokens,
soft caps of scores, a cache with more slots than queries, a card older than Ampere.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, PartitionSpec

from jaxforget.models.attention import EVERYTHING, KEPT_NAME, Scope, attend
from jaxforget.sharding import ROW_AXES, row_shards

Array = jax.Array
SHORTEST = 128  # tokens; the scores of shorter blocks are few
MULTIPLE = 8  # a head's width is a multiple of this
WIDEST, WIDEST_HOPPER = 128, 256  # width of a head before and from compute capability 9.0 on


@dataclasses.dataclass(frozen=True)
class CudnnAttention:
    """Causal attention of a block to itself by cuDNN, each device on its own rows and heads of `mesh`.

    Attributes:
      mesh: the mesh of the model.
      widest: largest width of a head that the cards support.
      implementation: "cudnn", or "xla" to run the same call on any backend, for tests.
    """

    mesh: Mesh
    widest: int = WIDEST
    implementation: str = "cudnn"

    def __call__(
        self,
        query: Array,
        key: Array,
        value: Array,
        positions: Array,
        scope: Scope = EVERYTHING,
        layer: Array | None = None,
    ) -> Array:
        """Compute what `attend` computes of the same arguments: query [B,S,H,E], key, value [B,T,K,E] -> [B,S,H,E]."""
        if not self.serves(query, key) or scope.soft_cap is not None:
            return attend(query, key, value, positions, scope, layer)
        scope = scope.within(key.shape[1])
        rows = PartitionSpec(ROW_AXES, None, "tensor")
        mapped = jax.shard_map(
            functools.partial(self._local, scope.windows),
            mesh=self.mesh,
            in_specs=(rows, rows, rows, PartitionSpec()),
            out_specs=rows,
            check_vma=False,
        )
        # cuDNN's backward pass also reads its log-sums, which JAX does not name. A policy that keeps this result
        # therefore runs the forward kernel again, at under 1 % of a layer's time for blocks of 512.
        return checkpoint_name(mapped(query, key, value, None if len(scope.windows) == 1 else layer), KEPT_NAME)

    def serves(self, query: Array, key: Array) -> bool:
        """Return whether cuDNN supports these arrays and `mesh` divides them."""
        rows, length, _, width = query.shape
        return (
            query.dtype == jnp.bfloat16
            and key.shape[1] == length >= SHORTEST
            and width % MULTIPLE == 0
            and width <= self.widest
            and key.shape[2] % self.mesh.shape["tensor"] == 0
            and rows % row_shards(self.mesh) == 0
        )

    def _local(
        self, windows: tuple[int | None, ...], query: Array, key: Array, value: Array, layer: Array | None
    ) -> Array:
        calls = [functools.partial(self._call, window) for window in windows]
        return calls[0](query, key, value) if layer is None else jax.lax.switch(layer, calls, query, key, value)

    def _call(self, window: int | None, query: Array, key: Array, value: Array) -> Array:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            scale=1.0,
            is_causal=True,
            local_window_size=None if window is None else (window - 1, 0),
            implementation=self.implementation,
        )


def cudnn_attention(mesh: Mesh) -> CudnnAttention | None:
    """Return cuDNN's attention where every device of `mesh` is an NVIDIA GPU that supports it, else None."""
    capabilities = [_compute_capability(device) for device in mesh.devices.flat]
    if min(capabilities) < 8:
        return None
    return CudnnAttention(mesh, WIDEST_HOPPER if min(capabilities) >= 9 else WIDEST)


def _compute_capability(device: jax.Device) -> float:
    """Return a CUDA device's compute capability, such as 9.0; 0 for any other device, an AMD GPU ("gfx90a") too."""
    try:
        return float(device.compute_capability) if device.platform == "gpu" else 0.0
    except ValueError:
        return 0.0
