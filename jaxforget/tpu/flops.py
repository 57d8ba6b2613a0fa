"""Floating-point operations of a step: model FLOP by convention, hardware FLOP by counting the program's products."""

import math
from typing import Any

CONVENTION = (
    "model FLOP: 2N a token for a forward pass and 4N for a backward pass, N = all parameters (of rmu's loss on hidden "
    "states, those of the layers before them), without attention's own products; so 10N for the forget step (two "
    "frozen forward passes, one trained), 6N to reinforce, 4N to label, 2N to score or decode; a backward pass takes "
    "2N if an adapter trains, so 8N and 4N. "
    "hardware FLOP: every matrix product of the program, including remat's recomputation, attention, padding of the "
    "translated tokens and every tile (about 12N for the forget step with model.remat=full)"
)


def product_flops(jaxpr: Any, unknown_trips: int) -> int:
    """Return the FLOP of all matrix products in a jaxpr, over all devices.

    A loop counts as often as it iterates, a conditional by its most expensive branch, and attention's kernel by the
    tiles that its causal mask does not skip.

    Args:
      jaxpr: the program.
      unknown_trips: number of iterations of a loop whose length depends on the data.
    """
    total = 0
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, _inner(equation.params)
        if name == "dot_general":
            total += _product(equation)
        elif name == "while":
            total += unknown_trips * sum(product_flops(part, unknown_trips) for part in inner)
        elif name == "cond":
            total += max(product_flops(part, unknown_trips) for part in inner)
        elif inner:
            times = equation.params["length"] if name == "scan" else 1
            if name == "pallas_call":
                times = _tiles_run(equation.params["name"], equation.params["grid_mapping"].grid)
            if name == "shard_map":  # the inner jaxpr is that of one device
                mesh, parameters = equation.params["mesh"], equation.params
                # The two supported releases of JAX name this parameter differently.
                axes = parameters.get("newly_manual_axes", parameters.get("manual_axes"))
                times = math.prod(mesh.shape[axis] for axis in axes)
            total += times * sum(product_flops(part, unknown_trips) for part in inner)
    return total


def runs_kernels(jaxpr: Any) -> bool:
    """Return True if a jaxpr contains a kernel; attention's is the only one."""
    return any(
        equation.primitive.name == "pallas_call" or any(runs_kernels(part) for part in _inner(equation.params))
        for equation in jaxpr.eqns
    )


def attention_of(jaxpr: Any) -> str:
    """Return the attention of a jaxpr: "splash", "cudnn" or "plain"."""
    if runs_kernels(jaxpr):
        return "splash"
    return "cudnn" if _runs_cudnn(jaxpr) else "plain"


def _runs_cudnn(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name.startswith("dot_product_attention") or any(map(_runs_cudnn, _inner(equation.params)))
        for equation in jaxpr.eqns
    )


def _tiles_run(kernel: str, grid: tuple[int, ...]) -> int:
    """Return the number of runs of the body of splash attention's `kernel`: for every head, tiles up to the diagonal.

    With a sliding window the grid is narrower than the block: it holds the tiles that the window reaches.
    """
    # The grid is (heads, queries, slots), and (slots, heads, queries) in the kernel of the keys' and values' gradients.
    slots, heads, queries = grid if "_dkv_" in kernel else (grid[2], grid[0], grid[1])
    wide, narrow = max(queries, slots), min(queries, slots)
    return heads * (wide * narrow - narrow * (narrow - 1) // 2)


def _product(equation: Any) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)


def _inner(parameters: dict[str, Any]) -> list[Any]:
    """Return the jaxprs among an equation's parameters."""
    values = [v for value in parameters.values() for v in (value if isinstance(value, tuple | list) else (value,))]
    opened = [getattr(value, "jaxpr", value) for value in values]
    return [value for value in opened if hasattr(value, "eqns")]
