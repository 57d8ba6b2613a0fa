"""Stage `export`: the unlearned model as a Hugging Face folder, and the share of the update that its dtype keeps."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxforget.files import write_text
from jaxforget.lm.model import load
from jaxforget.models.adapters import is_adapter, read_adapter, save_merged
from jaxforget.models.export import CARD, LICENCE_FILES, TOKENIZER_FILES, save_params
from jaxforget.models.folders import read_config
from jaxforget.stages.card import evidence_of, model_card
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage

COPIED_FILES = (*TOKENIZER_FILES, *LICENCE_FILES, "generation_config.json")


def needs(run: Run) -> Needs:
    """Return the inputs: the unlearned model, and the small files that are copied beside it."""
    return Needs(run.unlearning, extra_files={"tokenizer and licence": (run.base, COPIED_FILES)})


def export(run: Run) -> None:
    """Write the unlearned model in export.dtype with its card, and say which share of the update that dtype keeps.

    An adapter is merged into base's stored weights, whatever form base had during training.
    """
    config = run.config
    dtype, card = config.export.dtype, model_card(config, "unlearned", evidence_of(run))
    shard_bytes = int(config.export.shard_gigabytes * 1e9)
    if is_adapter(run.unlearned):
        model_config, raw = read_config(run.base)
        kept = save_merged(
            run.export,
            read_adapter(run.unlearned),
            run.base,
            model_config,
            raw,
            dtype=dtype,
            max_shard_bytes=shard_bytes,
            model_card=card,
        )
        _say_kept(run, kept)
    else:
        model = load(run.unlearned, "float32", run.mesh)
        if dtype != "float32":
            base = load(run.base, "float32", run.mesh)
            _say_kept(run, surviving_update(base.params, model.params, dtype))
            del base
        save_params(
            run.export,
            model.params,
            model.config,
            model.raw_config,
            run.base,
            dtype=dtype,
            max_shard_bytes=shard_bytes,
            model_card=card,
        )
    run.say(f"  {run.export}")


def refresh_card(run: Run) -> None:
    """Write the card of a finished export again with the present evidence, unless the user changed it."""
    path = run.export / CARD
    name = str(path.relative_to(run.folder))
    if jax.process_index() != 0 or not run.manifest.intact([name]):
        return
    card = model_card(run.config, "unlearned", evidence_of(run))
    if path.read_text(encoding="utf-8") != card:
        write_text(path, card)
        run.manifest.seal([name])


def _say_kept(run: Run, kept: float) -> None:
    dtype = run.config.export.dtype
    if dtype != "float32":
        run.say(f"  {dtype} keeps {kept:.1%} of the update (by squared size); float32 keeps all of it")


def surviving_update(base: Any, params: Any, dtype: str) -> float:
    """Return the share of an update that survives rounding to `dtype`.

    Args:
      base: parameters before the update.
      params: parameters after it, in fp32.
      dtype: "float32", "bfloat16" or "float16".

    Returns:
      Projection of (rounded params - base) on (params - base), divided by the latter's squared size: 1 is all, 0 none.
    """
    kind = jnp.finfo(dtype)

    @jax.jit
    def share(base: Any, params: Any) -> jax.Array:
        def products(p: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
            # Not astype twice: the compiler may remove a pair of conversions.
            stored = jax.lax.reduce_precision(p, kind.nexp, kind.nmant)
            return ((p - b) * (stored - b)).sum(), ((p - b) ** 2).sum()

        pairs = zip(jax.tree.leaves(params), jax.tree.leaves(base), strict=True)
        inner, size = zip(*(products(p, b) for p, b in pairs), strict=True)
        return sum(inner) / jnp.maximum(sum(size), 1e-30)

    return float(share(base, params))


STAGE = Stage(
    "export",
    needs,
    lambda run, _: export(run),
    lambda run: [run.export / "config.json"],
    keeps=True,
    refresh=refresh_card,
)
