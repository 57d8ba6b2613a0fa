"""The Python API, for notebooks and scripts."""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from omegaconf import OmegaConf

from jaxforget.config import Config, config_from, load_config, to_yaml
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.loader import collate
from jaxforget.corpus.text import Source
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.corpus.translate import Translation, translate
from jaxforget.errors import UserError
from jaxforget.evals.probes import Prompts, load_probes
from jaxforget.evals.watch import Questions, make_questions
from jaxforget.files import read_json
from jaxforget.lm.completion import complete as complete_texts
from jaxforget.lm.forward import make_forward
from jaxforget.lm.model import Model, load, materialize
from jaxforget.models.export import save_params
from jaxforget.models.transformer import Transformer
from jaxforget.pipeline import run_chain, stage_seconds
from jaxforget.sharding import put_rows, row_shards
from jaxforget.stages.card import plain_card
from jaxforget.stages.run import fetch
from jaxforget.stages.suites import loaded, loaded_attacks
from jaxforget.stages.suites.audit import audit_model
from jaxforget.stages.suites.completion import complete_and_grade
from jaxforget.stages.suites.probability import summary_rows
from jaxforget.start import start_jax
from jaxforget.train.objectives.whp import Whp
from jaxforget.train.step import StepOptions, make_label_step
from jaxforget.train.types import Frozen

__all__ = ["Anchors", "Model", "complete", "evaluate", "export", "generic_labels", "load", "logits", "run", "translate"]

WIDTH = 128


def logits(model: Model, tokens: Any) -> jax.Array:
    """Return the logits of a model, with the whole vocabulary axis: for small inputs only.

    Args:
      model: a loaded model.
      tokens: int [B, S].

    Returns:
      float32 [B, S, V].
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
    """
    if not (isinstance(alpha, int | float) and 0 <= alpha < float("inf")):
        raise UserError(f"alpha={alpha!r}: give a finite number, 0 or more (the paper has 5)")
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
    return make_label_step(make_forward(module), Whp(alpha=alpha), StepOptions(tile=1024), mesh)


def complete(
    model: Model,
    prompts: Sequence[str],
    *,
    new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> list[str]:
    """Return the text that follows each prompt.

    Args:
      model: a loaded model.
      prompts: texts.
      new_tokens: the largest number of tokens that are generated.
      temperature: of the sampling; 0 takes the most likely token.
      top_p: sample from the most likely tokens that hold this share of the probability.
      seed: of the sampling.
    """
    return complete_texts(model, prompts, new_tokens, temperature=temperature, top_p=top_p, seed=seed)


def run(
    config: str | Path | dict[str, Any] | Config, *, again: bool = False, force: bool = False, **overrides: Any
) -> dict[str, Any]:
    """Run the chain. Like the command, it joins the hosts of a run and stores compilations between runs.

    Args:
      config: a YAML file, a run's folder, nested values, or a `Config`.
      again: replace finished results of other options; without it that is refused.
      force: accept an `out` that holds other files or lies inside another run.
      overrides: top-level keys or whole sections, as `out="runs/x", forget={"max_steps": 3}`, or dotted keys from a
        dict, as `**{"forget.max_steps": 3}`.

    Returns:
      {"folder": the run's, "folders": {"reinforced", "unlearned", "export"}, "summary": rows of evidence,
      "seconds": by stage}.
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
        "folders": {"reinforced": str(done.reinforced), "unlearned": str(done.unlearned), "export": str(done.export)},
        "summary": read_json(done.evals / "summary.json")["rows"],
        "seconds": stage_seconds(done),
    }


def evaluate(
    model: Model,
    suite: str = "probability",
    *,
    probes: str | Path | None = None,
    heldout: str | Path | None = None,
    **settings: Any,
) -> list[dict[str, Any]]:
    """Any evaluation by name, as rows {"metric", "convention", "model", "value", "low", "high", "n"}.

    suite:
      "probability": familiarity and retained of `probes` (a JSON file), perplexity of `heldout` (text) in blocks of
        `length=` tokens (as blocks.length, 512), which the row's convention names.
      "muse": `data=FOLDER`, `convention="muse"` or `"open-unlearning"`, `auc_control=` a figure or `control=` a model.
      "tofu": `data=FOLDER`, `convention="tofu"` or `"open-unlearning"`, `control=`, `template=`, `limit=`.
      "memorization": `data=` text, `holdout=` text that was never trained on, `length=`, `limit=`, `field=`.
      "membership": `data=` text, `holdout=` text that was never trained on; else as "memorization".
      "multiple_choice": `data=FILE` of {"context", "choices", "answer"}, `delimiter=`.
      "prompting": `probes`, `data=` the target's text, `anchors=`, `attacks=` your own words, `control=`.
      "weights": `probes`, `base=`, `control=`.
      "relearning": `probes`, `data=`, `neighbours=` other text, `control=`, `steps=`, `batch=`, `learning_rate=`.
      "robustness": these three, with their keywords; relearning where there is `data=`.
      "completion": `prompts=FILE`, or `data=` and `anchors=`; `heldout`, `count=`, `new_tokens=`, `temperature=`.
      "audit": `data=`, `control=`; or `base=` and `anchors=`.
    What the files hold and the keywords mean is said in `jaxforget.stages.suites`: loaded, loaded_attacks, completion,
    audit.
    """
    if suite in SUITES:
        settings |= {name: path for name, path in {"probes": probes, "heldout": heldout}.items() if path is not None}
        return _published(suite, model, settings)
    if suite != "probability":
        raise UserError(f"suite={suite!r}: the suites are probability, {', '.join(SUITES)}")
    length = settings.pop("length", None)
    if probes is None and heldout is None:
        raise UserError("nothing to measure: give probes=FILE with questions, heldout=TEXT for perplexity, or both")
    config = config_from({"evals": settings} if settings else {})
    length = min(length or config.blocks.length, model.config.max_position_embeddings)
    blocks = []
    if heldout is not None:
        blocks = cut_blocks(Source(heldout).documents(), model.tokenizer, length=length)[0]
    questions: Questions = make_questions(
        load_probes(probes), Prompts(), blocks[: config.evals.heldout_blocks], model.tokenizer
    )
    return summary_rows(model.folder.name, model, questions, config, length)


SUITES = {
    "muse": loaded.muse,
    "tofu": loaded.tofu,
    "memorization": loaded.memorization,
    "membership": loaded.membership,
    "multiple_choice": loaded.multiple_choice,
    "prompting": loaded_attacks.prompting,
    "weights": loaded_attacks.weights,
    "relearning": loaded_attacks.relearning,
    "robustness": loaded_attacks.robustness,
    "completion": complete_and_grade,
    "audit": audit_model,
}


def _published(suite: str, model: Model, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Runs one of `SUITES`, its keywords checked."""
    known = list(inspect.signature(SUITES[suite]).parameters)[1:]
    for name in settings:
        if name not in known:
            raise UserError(f"suite={suite!r} knows no {name}=; it takes {', '.join(known)}")
    wanted = [
        name for name, given in inspect.signature(SUITES[suite]).parameters.items() if given.default is given.empty
    ]
    for name in wanted[1:]:
        if settings.get(name) is None:
            raise UserError(f"suite={suite!r} needs {name}=, the file or folder with what to ask")
    return SUITES[suite](model, **settings)


def export(model: Model, folder: str | Path, dtype: str = "float32") -> Path:
    """Write a model as a Hugging Face folder: sharded safetensors, config, tokenizer and a model card.

    Raises:
      UserError: `folder` is a file, or holds something else than an exported model; nothing is replaced.
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
