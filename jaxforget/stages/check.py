"""Checks of a run before any stage works: models, texts, questions and the mesh, in seconds."""

import dataclasses
import hashlib
from collections.abc import Collection
from pathlib import Path

from jax.sharding import Mesh

from jaxforget.config import TRAINING, Config
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.questions import read_alternates
from jaxforget.corpus.rows import check_questions
from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals.forgotten import earlier_requests
from jaxforget.evals.probes import load_probes, load_prompts
from jaxforget.lm.forward import choose_attention
from jaxforget.models.adapters import AdapterFile, is_adapter, read_adapter
from jaxforget.models.attention import attend
from jaxforget.models.config import ModelConfig
from jaxforget.models.folders import read_config, resolve_base, resolve_folder
from jaxforget.models.load import Checkpoint
from jaxforget.models.tokenizer import find_tokenizer, fit_tokenizer, load_tokenizer
from jaxforget.models.weights import dense_kernels
from jaxforget.sharding import row_shards
from jaxforget.stages.build import make_retain, make_wrappers
from jaxforget.stages.questions import check_lengths
from jaxforget.stages.run import Run
from jaxforget.train.metrics import import_wandb

MODEL_STAGES = {"prepare", *TRAINING, "eval", "export"}


def check(run: Run, stages: Collection[str]) -> None:
    """Check what the named stages are going to read.

    Raises:
      UserError: a missing or unfit model, tokenizer, text, dictionary or question, or a batch that the mesh does not
        divide.
    """
    config, wanted = run.config, set(stages)
    make_retain(config)  # checks the method, its settings and the retain term
    make_wrappers(config)
    if config.log.wandb and wanted & set(TRAINING):
        import_wandb()
    base = None
    if run.reinforces_first and "anchors" in wanted:
        wanted.add("reinforce")  # its model helps to find the anchors
    if wanted & MODEL_STAGES:
        base = _check_model(run.base)
        if wanted - {"export"}:
            tokenizer = load_tokenizer(run.base)
            fit_tokenizer(tokenizer, base)
        if config.blocks.length > base.max_position_embeddings:
            raise UserError(
                f"blocks.length is {config.blocks.length}, beyond the {base.max_position_embeddings} positions "
                f"of {run.base}; make it smaller"
            )
    trains = run.reinforces_first and "reinforce" in wanted and config.model.reinforced is None
    replies = "forget" in wanted and run.objective.alternates
    if "prepare" in wanted or trains or replies or (run.extractor is not None and "anchors" in wanted):
        _check_texts(run, retain=run.retain_blocks is not None or run.extractor is not None, replies=replies)
    if run.extractor == "local" and "anchors" in wanted and config.anchors.model is not None:
        _check_model(resolve_folder(config.anchors.model))
    dictionary = run.extractor is None and (run.translates or run.config.anchors.path is not None)
    if dictionary and wanted & {"anchors", "forget", "eval"}:
        Anchors.load(run.dictionary)
    if "anchors" in wanted and not run.translates and run.config.anchors.path is None:
        raise UserError(f"method={config.method}: needs no anchors, so there is no stage anchors to run")
    if "undo" in wanted and not run.undoes:
        raise UserError("undo.alpha is 0, so there is no stage undo to run; set undo.alpha, as undo.alpha=0.3")
    if base is not None and wanted & {*TRAINING, "eval"}:
        if config.model.reinforced is not None:
            _check_reinforced(run, base)
        if "lora" in (config.reinforce.weights, config.forget.weights):
            check_rank(config, base)
        for stage in sorted(wanted & set(TRAINING)):
            if stage != "reinforce" or config.model.reinforced is None:
                check_rows(config, run.mesh, stage)
    if base is not None and wanted & {"forget", "eval"}:
        check_select(config)
        models = {run.base: base.max_position_embeddings}
        if run.heldout is not None:
            _read(run, run.heldout)
        if run.control is not None:
            models[run.control] = _check_same(run.control, base, run.base).max_position_embeddings
        asked = {config.evals.probes: load_probes(config.evals.probes)}
        for place, text in earlier_requests(config).values():
            asked[place] = load_probes(place)
            if text is not None:
                _read(run, text)
        for place in config.evals.compare.values():
            folder = resolve_folder(place)
            models[folder] = _check_model(folder).max_position_embeddings
        check_lengths(config, asked, load_prompts(config.evals.prompts), tokenizer, models)


@dataclasses.dataclass
class _Texts:
    """Findings about the documents of a source.

    Attributes:
      names: hash of a document's text without its outer blanks -> the document's name.
      asks: True if one of them is a question.
      lonely: name of the first one that has no alternative answer, or None.
    """

    names: dict[bytes, str]
    asks: bool = False
    lonely: str | None = None


def _check_texts(run: Run, *, retain: bool, replies: bool) -> None:
    """Read the target and, if `retain`, the text to keep; warn about what is not read and what is in both.

    With `replies`, each document of the target must be a question that has an alternative answer.
    """
    options = run.config.corpus
    target = _read(run, run.target)
    kept = _read(run, run.retained) if retain and run.retained is not None else _Texts({})
    if options.alternates is not None:
        read_alternates(options.alternates)
        if not target.asks:
            raise UserError(
                f"corpus.alternates={options.alternates}: answers questions, of which corpus.path={options.path} "
                "holds none; remove corpus.alternates, or name questions"
            )
    elif replies and target.lonely:
        raise UserError(
            f"{target.lonely}: has no alternative answer, which method={run.config.method} prefers to the answer; give "
            "each question one in its field 'alternate', or name a file of them in corpus.alternates"
        )
    if target.asks or kept.asks:
        check_questions(load_tokenizer(run.base), run.config.blocks.mode, options.template)
    elif options.template != "plain":
        raise UserError(
            f"corpus.template={options.template}: renders questions, but the texts of this run hold none; remove it"
        )
    if run.unrelated is not None:
        _read(run, run.unrelated)
    if both := [name for digest, name in kept.names.items() if digest in target.names]:
        run.say(
            f"warning: retain.path={run.retained.path} holds {len(both):,} of the {len(target.names):,} documents of "
            f"corpus.path={run.target.path} (the first: {both[0]}): the same text is to be forgotten and kept; take it "
            "out of one of them"
        )


def _read(run: Run, source: Source) -> _Texts:
    """Read a text to its end, so that a fault in its last file is found before any stage runs."""
    found = _Texts({})
    for one in source.documents():
        found.names[hashlib.sha256(one.text.strip().encode()).digest()] = one.name
        found.asks |= one.question is not None
        if found.lonely is None and not (one.question and one.question.alternates):
            found.lonely = one.name
    for line in source.left_out():
        run.say(f"warning: {line}")
    return found


def check_select(config: Config) -> None:
    """Check that something is measured by which forget.select can choose the result.

    Raises:
      UserError: the measure has no questions; names the option that gives it some.
    """
    select, options = config.forget.select, config.evals
    if select == "perplexity" and options.heldout is None:
        raise UserError("forget.select=perplexity: nothing measures it; set evals.heldout to general text")
    if select in ("familiarity", "retained") and not getattr(load_probes(options.probes), select):
        where = (
            "evals.probes is not set"
            if options.probes is None
            else f"{options.probes} has no such list, or an empty one"
        )
        raise UserError(f"forget.select={select}: nothing measures it: {where}; give evals.probes a list {select!r}")


def _check_model(folder: Path, *, tokenizer: bool = True) -> ModelConfig:
    """Return the shape of a model whose files are complete and fit each other; no weight is loaded."""
    config = read_config(folder)[0]
    if is_adapter(folder):
        adapter = read_adapter(folder)
        AdapterFile(adapter, config)
        return _check_model(resolve_base(adapter), tokenizer=tokenizer)
    Checkpoint(folder).check(config)
    if tokenizer:
        find_tokenizer(folder)
    return config


def _check_same(folder: Path, base: ModelConfig, base_folder: Path, *, tokenizer: bool = True) -> ModelConfig:
    """Return a model's shape after a check that it has base's tokens and forward pass, so only its training differs."""
    other = _check_model(folder, tokenizer=False)
    free = {name: getattr(base, name) for name in ("bos_token_id", "eos_token_id", "max_position_embeddings")}
    if dataclasses.replace(other, **free) != base:
        raise UserError(
            f"{folder}: its config.json describes another model than {base_folder}; give a model of the same shape"
        )
    if tokenizer and not is_adapter(folder):
        find_tokenizer(folder)
    return other


def _check_reinforced(run: Run, base: ModelConfig) -> None:
    """Check that a given reinforced model fits base, and has the form that reinforce.weights names."""
    folder, weights = run.reinforced, run.config.reinforce.weights
    if is_adapter(folder):
        if weights != "lora":
            raise UserError(f"model.reinforced={folder}: is a LoRA adapter; set reinforce.weights=lora")
        AdapterFile(read_adapter(folder), base)
        return
    if weights == "lora":
        raise UserError(
            f"reinforce.weights=lora: model.reinforced={folder} holds whole weights; set reinforce.weights=full, or "
            "int8-delta to hold them as int8 over base"
        )
    # Only its weights are read: texts are encoded by base's tokenizer.
    _check_same(folder, base, run.base, tokenizer=False)


def check_rank(config: Config, base: ModelConfig) -> None:
    """Raise `UserError` unless the adapters' rank is lower than that of every layer beside them."""
    least = min(min(leaf.shape[1:]) for leaf in dense_kernels(base).values())
    if config.lora.rank >= least:
        raise UserError(
            f"lora.rank is {config.lora.rank}, and the model's narrowest dense layer {least} wide; lower it, or train "
            "every parameter with weights=full"
        )


def check_rows(config: Config, mesh: Mesh, stage: str) -> None:
    """Raise `UserError` unless the mesh and the microbatches divide the rows of a step of `stage`."""
    options = getattr(config, stage)
    if stage == "forget" and config.ilu.weight:
        each = row_shards(mesh) * options.accumulate
        if config.ilu.rows % each:
            raise UserError(f"ilu.rows={config.ilu.rows}: make it a multiple of {each}, the devices times microbatches")
        if choose_attention(mesh, config.model.attention) is not attend:
            raise UserError(
                f"model.attention={config.model.attention}: ilu.weight needs second derivatives, which the fused "
                "attention lacks; set model.attention=plain"
            )
    rows = config.retain.rows if stage == "forget" else 0
    shards = row_shards(mesh)
    total, parts = options.batch + rows, shards * options.accumulate
    if total % parts:
        retained = f" and {rows} retain rows" if rows else ""
        raise UserError(
            f"{stage}.batch: {options.batch} blocks{retained} a step cannot be shared by {shards} devices in "
            f"{options.accumulate} microbatch{'es' * (options.accumulate > 1)}; make "
            f"{'blocks and rows together' if rows else 'it'} a multiple of {parts}"
            + (f", or lower {stage}.accumulate" if options.accumulate > 1 else "")
        )
