"""Parts of bench_gpu that need no model: `gpu_kernels.py PART [--tiny]`; prints one JSON object.

rate: versions, the card, its memory, and the rate of large bfloat16 products.
rate-torch: the same products in PyTorch.
attention: cuDNN's attention beside the plain one: errors of both against fp32, and milliseconds of value and gradient.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import jax
import jax.numpy as jnp
import numpy as np
from jax_side import matmul_rate

from jaxforget.models.attention import attend
from jaxforget.models.cudnn import cudnn_attention
from jaxforget.sharding import make_mesh
from jaxforget.start import allow_whole_gpu

PACKAGES = ("jax", "jaxlib", "jax-cuda13-plugin", "nvidia-cudnn-cu13", "flax", "optax", "torch", "transformers")
REPEATS = 10


def installed(package: str) -> str | None:
    """Return a package's version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def torch_rate(tiny: bool) -> dict[str, object]:
    """Return the rate of the same products in PyTorch."""
    import torch

    device, size, repeats = ("cpu", 256, 2) if tiny else ("cuda", 8192, 32)
    left, right = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        for _ in range(repeats):
            left = (left @ right) * size**-0.5
        left.sum().item()  # waits for the products
        best = min(best, time.perf_counter() - start)
    return {"torch_flops_per_second": 2 * size**3 * repeats / best}


def rate(tiny: bool) -> dict[str, object]:
    """Return versions, the card and its rates."""
    size = 256 if tiny else 8192
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "device": device.device_kind,
        "capability": getattr(device, "compute_capability", None),
        "memory_limit_bytes": (device.memory_stats() or {}).get("bytes_limit"),
        "jax_flops_per_second": matmul_rate(size),
    }


def attention(tiny: bool) -> dict[str, object]:
    """Return errors and times of both kinds of attention."""
    kernel = cudnn_attention(make_mesh(devices=jax.devices()[:1]))
    if kernel is None and not tiny:
        raise SystemExit("this card has no cuDNN attention: it needs compute capability 8.0")
    # One size: plain attention's loops take the compiler tens of seconds on a GPU.
    size = (2, 128, 4, 64) if tiny else (8, 512, 32, 128)
    return {"rows_tokens_heads_width": size, **compared(kernel or attend, *size)}


def compared(kernel: Callable, rows: int, length: int, heads: int, width: int) -> dict[str, object]:
    """Return relative errors and milliseconds of `kernel` and of plain attention."""
    rng = np.random.default_rng(0)
    shape = (rows, length, heads, width)
    arrays = [jnp.asarray(rng.standard_normal(shape, np.float32)) for _ in range(3)]
    weights = jnp.asarray(rng.standard_normal(shape, np.float32))
    arrays[0] = arrays[0] * width**-0.5
    positions = jnp.broadcast_to(jnp.arange(length), shape[:2])

    def results(attention: Callable, dtype: jnp.dtype) -> tuple[list[jax.Array], float]:
        def total(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = attention(query, key, value, positions)
            return jnp.sum(y.astype(jnp.float32) * weights), y

        inputs = [x.astype(dtype) for x in arrays]
        both = jax.jit(jax.value_and_grad(total, (0, 1, 2), has_aux=True))
        (_, y), gradients = both(*inputs)
        return [y, *gradients], milliseconds(both, inputs)

    with jax.default_matmul_precision("highest"):
        exact, _ = results(attend, jnp.float32)
    found = {}
    for name, attention in (("kernel", kernel), ("plain", attend)):
        values, taken = results(attention, jnp.bfloat16)
        errors = [
            float(jnp.linalg.norm((ours.astype(jnp.float32) - theirs).ravel()) / jnp.linalg.norm(theirs.ravel()))
            for ours, theirs in zip(values, exact, strict=True)
        ]
        found[name] = {"errors_y_dq_dk_dv": errors, "value_and_gradient_ms": taken}
    return found


def milliseconds(function: Callable, inputs: list[jax.Array]) -> float:
    """Return the time of one call, after a warm-up."""
    jax.block_until_ready(function(*inputs))
    start = time.perf_counter()
    for _ in range(REPEATS):
        result = function(*inputs)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / REPEATS * 1e3


PARTS = {"rate": rate, "rate-torch": torch_rate, "attention": attention}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--tiny", action="store_true", help="small shapes, for a CPU")
    given = parser.parse_args()
    allow_whole_gpu()
    print(json.dumps(PARTS[given.part](given.tiny)))
