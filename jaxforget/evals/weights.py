"""Suite `weights`: attacks on the weights, which are rounded to few bits or interpolated towards base.

Rounding can undo an update that is smaller than its step (Zhang et al., 2410.16454). Between the unlearned weights and
base the knowledge returns at some point; the closer to the unlearned weights, the weaker the unlearning.
"""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxforget.evals.familiarity import ANSWER, answer_probabilities, encode_probe
from jaxforget.evals.probes import familiarity_path, load_familiarity
from jaxforget.evals.rows import Row, mean_row
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.suite import RunInputs, Suite
from jaxforget.lm.model import Model, materialize
from jaxforget.models.weights import dequantise, quantise
from jaxforget.train.types import Array, Params

# The common tools round the layers' matrices; embedding, head and norms keep their precision.
QUANTIZED = re.compile(r"layers/\w+/kernel")
QUANTIZATION = "the layers' matrices rounded to nearest, symmetric, one step an output channel"
BITS = (8, 4)
SHARES = (0.25, 0.5, 0.75)


def rounded(weights: Array, bits: int) -> Array:
    """Return `weights` [..., inputs, outputs] as whole multiples of a step; the dtype is kept.

    The step of an output channel is its largest weight / (2^(bits - 1) - 1). A channel of zeros is unchanged.
    """
    return dequantise(quantise(weights, 2 ** (bits - 1) - 1)).astype(weights.dtype)


def quantized(params: Params, bits: int) -> Params:
    """Return `params` with the layers' matrices rounded to `bits` bits, in the same layout."""

    def round_all(params: Params) -> Params:
        flat = traverse_util.flatten_dict(params, sep="/")
        done = {name: rounded(leaf, bits) if QUANTIZED.fullmatch(name) else leaf for name, leaf in flat.items()}
        return traverse_util.unflatten_dict(done, sep="/")

    return jax.jit(round_all, out_shardings=_shardings(params))(params)


def interpolated(base: Params, params: Params, share: float) -> Params:
    """Return base + share · (params - base), computed in fp32, in the dtype and layout of `params`."""

    def mix(base: Params, params: Params) -> Params:
        def leaf(b: Array, p: Array) -> Array:
            b, exact = b.astype(jnp.float32), p.astype(jnp.float32)
            return (b + jnp.float32(share) * (exact - b)).astype(p.dtype)

        return jax.tree.map(leaf, base, params)

    return jax.jit(mix, out_shardings=_shardings(params))(base, params)


def _shardings(params: Params) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, params)


def measure(model: Model, *, probes: Path, base: Model | None = None) -> list[Row]:
    """Ask the questions with weights in 8 and 4 bits and, given `base` of the same shape, interpolated towards it.

    The cost of rounding shows in the retained questions, which are no leak.

    Args:
      model: the model.
      probes: JSON {"familiarity": [{"prompt", "answer"}], "retained": [...]}.
      base: the model before unlearning.
    """
    asked = load_familiarity(probes)
    model, base = materialize(model), None if base is None else materialize(base)
    scorer, name = scorer_of(model), model.folder.name
    familiarity = [encode_probe(probe, model.tokenizer) for probe in asked.familiarity]
    retained = [encode_probe(probe, model.tokenizer) for probe in asked.retained]

    def attack(metric: str, change: str, params: Params) -> Row:
        values = answer_probabilities(scorer, params, familiarity)
        return mean_row(metric, f"{change}; {ANSWER}", name, values, compared=True)

    rows = []
    for bits in BITS:
        change, params = f"{bits} bits: {QUANTIZATION}", quantized(model.params, bits)
        rows.append(attack(f"int{bits}", change, params))
        if retained:
            values = answer_probabilities(scorer, params, retained)
            rows.append(mean_row(f"int{bits}_retained", f"{change}; {ANSWER}, other text", name, values))
    if base is None or base.config != model.config:
        return rows
    for share in SHARES:
        back = round(100 * (1 - share))
        params = interpolated(base.params, model.params, share)
        rows.append(attack(f"back_to_base_{back}", f"weights {back} % of the way back to base", params))
    return rows


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    return {"probes": familiarity_path(run), "base": None if run.model == "base" else run.reference("base")}


SUITE = Suite("weights in 8 and 4 bits, and interpolated towards base", measure, options)
