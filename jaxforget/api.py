"""The Python API, for notebooks and scripts."""

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from omegaconf import OmegaConf

from jaxforget.config import Config, config_from, load_config, to_yaml
from jaxforget.corpus.batches import collate
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Source
from jaxforget.corpus.translate import Translation, translate
from jaxforget.errors import UserError
from jaxforget.evals.catalogue import CATALOGUE, GROUPS, NAMES, choose
from jaxforget.evals.rows import Row, above_control
from jaxforget.files import read_json
from jaxforget.lm.completion import complete as complete_texts
from jaxforget.lm.forward import make_forward
from jaxforget.lm.method_loss import check_number, method_loss
from jaxforget.lm.model import Model, load, materialize
from jaxforget.models.export import save_params
from jaxforget.models.transformer import Transformer
from jaxforget.pipeline import run_chain, stage_seconds
from jaxforget.processes import fetch
from jaxforget.sharding import put_rows, row_shards
from jaxforget.stages.card import plain_card
from jaxforget.start import start_jax
from jaxforget.train.objectives.whp import EquationOne
from jaxforget.train.step import StepOptions, make_label_step
from jaxforget.train.types import Frozen

__all__ = [
    "Anchors",
    "Model",
    "complete",
    "evaluate",
    "export",
    "generic_labels",
    "load",
    "logits",
    "method_loss",
    "run",
    "translate",
]

WIDTH = 128


def logits(model: Model, tokens: Any) -> jax.Array:
    """Return the logits of a model, with the whole vocabulary axis: for small inputs only.

    Args:
      model: a loaded model.
      tokens: int [B, S].

    Returns:
      float32 [B, S, V].

    Raises:
      UserError: `tokens` are no whole numbers of the vocabulary, empty, or of another shape.
    """
    tokens = _token_ids(tokens, model, axes=2)
    return _logits(model.module, model.params, tokens)


@functools.partial(jax.jit, static_argnames="module")
def _logits(module: Transformer, params: Any, tokens: jax.Array) -> jax.Array:
    return module.apply({"params": params}, tokens)


def _token_ids(tokens: Any, model: Model, axes: int) -> np.ndarray:
    """Return checked int32 ids: a gather beyond the vocabulary would silently take its last token."""
    ids = np.asarray(tokens)
    if ids.ndim != axes or not ids.size:
        raise UserError(
            f"tokens has shape {ids.shape}; give {['', '[positions]', '[rows, positions]'][axes]}, not empty"
        )
    if not np.issubdtype(ids.dtype, np.integer):
        raise UserError(f"tokens has dtype {ids.dtype}; give whole numbers")
    if ids.min() < 0 or ids.max() >= model.config.vocab_size:
        raise UserError(
            f"tokens hold {ids.min()} to {ids.max()}; {model.folder} has tokens 0 to {model.config.vocab_size - 1}"
        )
    return ids.astype(np.int32)


def generic_labels(base: Model, reinforced: Model, tokens: Any, t: Translation, alpha: float = 5.0) -> np.ndarray:
    """Return the generic labels of one block (WHP, equation 1).

    Args:
      base: runs on `t.translated`.
      reinforced: runs on `tokens`.
      tokens: the original block, int [S].
      t: its translation, from `translate(tokens, anchors, tokenizer)`.
      alpha: strength of equation 1.

    Returns:
      int32 [S]: the token that each position should predict, -1 where it is not trained.

    Raises:
      UserError: `alpha` is negative or not finite, or `tokens` are not those of the translation or the vocabulary.
    """
    check_number("alpha", alpha)
    tokens = _token_ids(tokens, base, axes=1)
    if tokens.shape != t.position_map.shape:
        raise UserError(
            f"tokens has shape {tokens.shape}, the translation's position_map {t.position_map.shape}; "
            "give the block that was translated"
        )
    arrays = {name: getattr(t, name) for name in ("translated", "position_map", "suppress_ids", "suppress_from")}
    record = {"tokens": tokens, **arrays, "weights": np.ones(len(tokens), np.float32), "retain": 0}
    # Widths are rounded up, so that blocks of similar size share a compilation.
    sizes = {"length": len(tokens), "translated_length": len(t.translated), "suppress": len(t.suppress_ids) + 1}
    widths = {name: -(-size // WIDTH) * WIDTH for name, size in sizes.items()}
    # Every device labels the same row, and the first result is used.
    rows = row_shards(base.mesh)
    batch = collate([record] * rows, [{**widths, "pad_id": 0}])
    step = _label_step(base.module, base.mesh, float(alpha))
    labels = fetch(step(Frozen(base.params, reinforced.params), put_rows(batch, base.mesh)))
    return labels[0, : len(tokens)]


@functools.lru_cache(maxsize=8)
def _label_step(module: Transformer, mesh: Mesh, alpha: float) -> Callable:
    # Cached, so that labelling many blocks compiles once.
    return make_label_step(make_forward(module), EquationOne(alpha=alpha), StepOptions(tile=1024), mesh)


def complete(
    model: Model,
    prompts: Sequence[str],
    *,
    new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Return the text that follows each prompt, up to the model's end token.

    Args:
      model: a loaded model.
      prompts: texts.
      new_tokens: the largest number of tokens that are generated for each prompt.
      temperature: of the sampling; 0 takes the most likely token.
      top_p: sample from the most likely tokens that hold this share of the probability; no effect at temperature 0.
      seed: of the sampling.

    Raises:
      UserError: an option out of range, or prompt and new tokens are longer than the model allows.
    """
    return complete_texts(model, prompts, new_tokens, temperature=temperature, top_p=top_p, seed=seed)


def run(
    config: str | Path | dict[str, Any] | Config, *, again: bool = False, force: bool = False, **overrides: Any
) -> dict[str, Any]:
    """Run the chain. Like the command, it joins the hosts of a run and stores compilations between runs.

    Args:
      config: a YAML file, a run's folder, nested values, or a `Config`.
      again: replace finished results of other options, and discard their checkpoints; without it that is refused.
      force: accept an `out` that holds other files or lies inside another run.
      overrides: top-level keys or whole sections, as `out="runs/x", forget={"max_steps": 3}`, or dotted keys from a
        dict, as `**{"forget.max_steps": 3}`.

    Returns:
      {"folder": the run's, "folders": {"reinforced", "unlearned", "export"}, "summary": rows of evidence,
      "seconds": by stage}. folders["reinforced"] is None where the method needs no reinforced model.

    Raises:
      UserError: a mistake in the configuration or in what it names.
      jaxforget.errors.Preempted: stopped by SIGTERM, or in training by SIGINT; the same call resumes.
    """
    if isinstance(config, str | Path):
        values = OmegaConf.to_container(OmegaConf.create(to_yaml(load_config(config))))
    elif isinstance(config, Config):
        values = OmegaConf.to_container(OmegaConf.create(to_yaml(config)))
    else:
        values = config
    layered = OmegaConf.create(values)
    for key, value in overrides.items():
        OmegaConf.update(layered, key, value, merge=True, force_add=True)
    whole = config_from(OmegaConf.to_container(layered))
    start_jax()
    done = run_chain(whole, again=again, force=force)
    return {
        "folder": str(done.folder),
        "folders": {
            "reinforced": str(done.reinforced) if done.reinforced.is_dir() else None,
            "unlearned": str(done.unlearned),
            "export": str(done.export),
        },
        "summary": read_json(done.evals / "summary.json")["rows"],
        "seconds": stage_seconds(done),
    }


def evaluate(
    model: Model,
    suite: str = "probability",
    *,
    field: str = "text",
    split: str = "train",
    **options: Any,
) -> list[dict[str, Any]]:
    """Measure a suite, or a group of suites, on one model.

    The keywords of a suite are those of its `measure`, in `jaxforget.evals.NAME`; see `jaxforget/evals/README.md`.

    Args:
      model: the model.
      suite: "probability" (`probes=`, `heldout=`), "muse", "tofu" (`data=FOLDER`), "memorization" (`data=`),
        "membership" (`data=`, `nonmembers=`), "multiple_choice" (`data=FILE`), "forgotten", "prompting",
        "soft_prompt", "weights", "relearning" (`probes=`), "completion", "audit", "benchmarks" or "harness"; or a group
        of `jaxforget.evals.catalogue.GROUPS`, as "robustness", of which each suite runs whose required keywords are
        given.
      field: the field of the text in .jsonl or data set records, for every text given by its path.
      split: the split of a data set in `data`; other texts are read from "train".
      options: keywords of the suite. A text is given by its path or as a `Source`. `control=`, a model that never read
        the target, also adds the distances above it to suites that attack. `convention=` names one convention of
        "muse" or "tofu".

    Returns:
      Rows {"metric", "convention", "model", "value", "low", "high", "n"}.

    Raises:
      UserError: an unknown suite or keyword, a required keyword is missing, or a file is unfit.
    """
    if suite not in NAMES:
        raise UserError(f"suite={suite!r}: the suites are {', '.join(NAMES)}")
    options = {name: value for name, value in options.items() if value is not None}
    if suite not in GROUPS:
        return [row.as_json() for row in _measure_suite(model, suite, options, field, split)]
    parts = [entry.name for entry in choose(suite)]
    known = {name for part in parts for name in (*_parameters(part), "control")}
    _refuse_unknown(suite, options, known)
    rows = []
    for part in parts:
        parameters = _parameters(part)
        if all(name in options for name, given in parameters.items() if given.default is given.empty):
            own = {name: value for name, value in options.items() if name in parameters or name == "control"}
            rows += _measure_suite(model, part, own, field, split)
    return [row.as_json() for row in rows]


def _parameters(suite: str) -> dict[str, inspect.Parameter]:
    """Return the keywords of a suite's `measure`, with their types resolved."""
    measure = next(entry for entry in CATALOGUE if entry.name == suite).load().measure
    return dict(list(inspect.signature(measure, eval_str=True).parameters.items())[1:])


def _refuse_unknown(suite: str, options: dict[str, Any], known: Collection[str]) -> None:
    for name in options:
        if name not in known:
            raise UserError(f"suite={suite!r} knows no {name}=; it takes {', '.join(known)}")


def _measure_suite(model: Model, suite: str, options: dict[str, Any], field: str, split: str) -> list[Row]:
    """Measure one suite; its options are checked, paths become the values that `measure` receives."""
    parameters = _parameters(suite)
    options = dict(options)
    if "convention" in options and "conventions" in parameters:
        options["conventions"] = (options.pop("convention"),)
    if suite == "probability":
        options = {**_run_blocks(model), **options}
        if "length" in options:
            options["length"] = min(options["length"], model.config.max_position_embeddings)
    control = options.get("control") if "control" in parameters else options.pop("control", None)
    _refuse_unknown(suite, options, dict.fromkeys(name for name in (*parameters, "control") if name != "workspace"))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in options:
            raise UserError(f"suite={suite!r} needs {name}=, the file or folder with its questions or text")
        if name in options:
            options[name] = _option(options[name], parameter, field, split if name == "data" else "train")
    measure = next(entry for entry in CATALOGUE if entry.name == suite).load().measure
    rows = measure(model, **options)
    if control is None or "control" in parameters:
        return rows
    return [*rows, *above_control(rows, measure(control, **options))]


def _option(value: Any, parameter: inspect.Parameter, field: str, split: str) -> Any:
    """Return a path as the `Source` or `Path` that the suite receives; other values unchanged."""
    kinds = typing.get_args(parameter.annotation) or (parameter.annotation,)
    if isinstance(value, str | Path) and Source in kinds:
        return Source(value, field, split)
    return Path(value) if isinstance(value, str) and Path in kinds else value


def _run_blocks(model: Model) -> dict[str, int]:
    """Return the held-out blocks' length and number of the run whose folder holds the model, else the defaults.

    So a model of a run has the same perplexity here as in the run's own table. Only these two options are read, because
    the run may be of another version.
    """
    place = model.folder.parent / "config.yaml"
    defaults, stored = config_from({}), OmegaConf.load(place) if place.is_file() else OmegaConf.create({})
    found = {"length": ("blocks.length", defaults.blocks.length)}
    found["heldout_blocks"] = ("evals.heldout_blocks", defaults.evals.heldout_blocks)
    return {name: int(OmegaConf.select(stored, key, default=default)) for name, (key, default) in found.items()}


def export(model: Model, folder: str | Path, dtype: str = "float32") -> Path:
    """Write a model as a Hugging Face folder: sharded safetensors, config, tokenizer and a model card.

    Args:
      model: the model; an adapter or int8 kernels are merged into whole weights first.
      folder: an empty or new folder, or one of an earlier export, which is replaced.
      dtype: of the weights: "float32", "bfloat16" or "float16".

    Returns:
      `folder`.

    Raises:
      UserError: an unknown dtype, or `folder` is a file or holds something else than an exported model; nothing is
        replaced.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: is a file; name a folder to export to")
    if folder.is_dir() and any(folder.iterdir()):
        card = folder / "README.md"
        if not (card.is_file() and "jaxforget" in card.read_text(encoding="utf-8", errors="replace")):
            raise UserError(f"{folder}: holds files that jaxforget did not write; name an empty or a new folder")
    card = plain_card(f"{model.folder.name}, {dtype}", str(model.folder))
    source = model.tokenizer_folder if model.tokenizer_folder.is_dir() else model.tokenizer
    params = materialize(model).params
    save_params(folder, params, model.config, model.raw_config, source, dtype=dtype, model_card=card)
    return Path(folder)
