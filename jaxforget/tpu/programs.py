"""A run's steps as programs to compile, built by the functions of the stages from shapes and shardings, not weights."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxforget.config import TRAINING, Config
from jaxforget.corpus.batches import read_summary
from jaxforget.corpus.rows import ALTERNATES
from jaxforget.corpus.text import Source, source_of
from jaxforget.corpus.translations import COLUMNS as TRANSLATIONS
from jaxforget.errors import UserError
from jaxforget.lm.forward import configured_module, make_forward, param_shapes
from jaxforget.lm.generate import trace_generate
from jaxforget.lm.scoring import BUCKET, make_score_step
from jaxforget.models.config import ModelConfig
from jaxforget.models.weights import differences, int8_kernels
from jaxforget.sharding import batch_sharding, row_shards, shard_params
from jaxforget.stages.build import (
    make_adamw,
    make_objective,
    make_training_step,
    passes,
    step_options,
    student_shardings,
    trained_shapes,
)
from jaxforget.stages.check import check_rank, check_rows
from jaxforget.train.precision import compute_params
from jaxforget.train.state import abstract_state
from jaxforget.train.step import make_label_step
from jaxforget.train.types import Frozen, TrainState
from jaxforget.train.wrappers import UNRELATED, take_unrelated

STEPS = ("reinforce", "label", "forget", "undo", "score", "decode")
PROMPT = 128  # tokens of a prompt, and prompts at a time, that a completion is planned for
PROMPTS = 32


@dataclasses.dataclass(frozen=True)
class Widths:
    """Static widths of a batch, and its optional columns.

    Attributes:
      length: tokens S.
      translated: translated tokens S'.
      suppressed: suppressed tokens K.
      source: where the widths come from.
      asks: True if some rows are questions, whose answers are marked.
    """

    length: int
    translated: int
    suppressed: int
    source: str
    asks: bool = False


@dataclasses.dataclass(frozen=True)
class Step:
    """A step to compile.

    Attributes:
      name: one of `STEPS`.
      blocks: rows of one run of the step.
      tokens: positions that its rate counts, over all devices.
      trips: maximal number of iterations of a loop whose length depends on the data.
      trace: returns the traced program.
    """

    name: str
    blocks: int
    tokens: int
    trips: int
    trace: Callable[[], Any]


def batch_widths(config: Config) -> Widths:
    """Return the widths of the run's prepared blocks, or assume a fifth more translated tokens."""
    sources = (source_of(config.corpus), source_of(config.retain) if _keeps(config) else None)
    asks = any(source is not None and _asks(source) for source in sources)
    blocks = None if config.out is None else Path(config.out) / "blocks"
    if blocks is not None and (blocks / "target" / "blocks.json").is_file():
        found = [read_summary(blocks / "target")]
        if _keeps(config) and (blocks / "retain" / "blocks.json").is_file():
            found.append(read_summary(blocks / "retain"))  # a batch is as wide as the wider of them
        widths = [max(one[name] for one in found) for name in ("length", "translated_length", "suppress")]
        return Widths(*widths, f"blocks prepared in {blocks / 'target'}", asks)
    length = config.blocks.length
    multiple = 128 if length >= 512 else 16  # what preparing rounds to
    translated = -(-length * 6 // 5 // multiple) * multiple
    return Widths(length, translated, max(8, length // 8), "assumed: no blocks are prepared yet", asks)


def _keeps(config: Config) -> bool:
    """Return True if a step of the run reads the text to keep."""
    return bool(config.retain.rows or config.undo.alpha)


def _asks(source: Source) -> bool:
    """Return True if the first document is a question; False for a text, and where nothing can be read."""
    try:
        return next(source.documents()).question is not None
    except (UserError, StopIteration):
        return False


def check_plan(config: Config, model_config: ModelConfig, mesh: Mesh, steps: tuple[str, ...]) -> None:
    """Raise `UserError` for faults that are known without compiling."""
    if config.blocks.length > model_config.max_position_embeddings:
        raise UserError(
            f"blocks.length is {config.blocks.length}, beyond the model's {model_config.max_position_embeddings} "
            "positions; make it smaller"
        )
    for stage, by in (("reinforce", ("reinforce",)), ("forget", ("forget", "label")), ("undo", ("undo",))):
        if any(step in steps for step in by) and (stage != "undo" or config.undo.alpha):
            check_rows(config, mesh, stage)
            if "lora" in (config.reinforce.weights, config.forget.weights):
                check_rank(config, model_config)


def make_step(config: Config, model_config: ModelConfig, mesh: Mesh, widths: Widths, name: str) -> Step:
    """Return the step `name` of the run that `config` describes, on `mesh`."""
    shards = row_shards(mesh)
    tile = config.targets.tile
    if name == "decode":
        new = config.evals.completion_tokens
        module = configured_module(config.model, model_config, mesh, remat="none")
        params = _base(config, model_config, mesh)
        trace = lambda: trace_generate(module, params, rows=PROMPTS, prompt=PROMPT, new=new, mesh=mesh)  # noqa: E731
        rows = -(-PROMPTS // shards) * shards
        return Step(name, rows, rows * (PROMPT + new), new, trace)
    if name == "score":
        rows = -(-config.evals.batch // shards) * shards
        length = -(-widths.length // BUCKET) * BUCKET
        trips = _tiles(rows // shards * length, tile)
        return Step(name, rows, rows * length, trips, lambda: _trace_score(config, model_config, mesh, rows, length))
    options = getattr(config, name if name in TRAINING else "forget")
    rows = options.batch + (0 if name in ("reinforce", "undo") else config.retain.rows)
    # An alternative answer is a row of its own in the step.
    doubled = 2 if name == "forget" and make_objective(config).alternates else 1
    trips = _tiles(doubled * rows // shards // options.accumulate * widths.length, tile)

    def trace() -> Any:
        if name == "label":
            return _trace_label(config, model_config, mesh, widths, rows)
        step, arguments = training_program(config, model_config, mesh, widths, name)
        return step.trace(*arguments)

    return Step(name, rows, rows * widths.length, trips, trace)


def _tiles(tokens: int, tile: int) -> int:
    return -(-tokens // min(tile, tokens))


def _placed(shapes: Any, mesh: Mesh) -> Any:
    """Return parameter shapes with the shardings that `jaxforget.lm.model.load` gives them."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shard_params(shapes, mesh),
    )


def _base(config: Config, model_config: ModelConfig, mesh: Mesh) -> Any:
    """Return the shapes of base in its frozen form, bf16 or int8."""
    shapes = param_shapes(model_config, jnp.dtype(config.model.dtype))
    return _placed(jax.eval_shape(int8_kernels, shapes) if config.model.base == "int8" else shapes, mesh)


def _reinforced(config: Config, model_config: ModelConfig, mesh: Mesh) -> Any:
    """Return the shapes of the reinforced model's delta: an adapter, 8-bit differences, or all parameters."""
    dtype, weights = jnp.dtype(config.model.dtype), config.reinforce.weights
    shapes = param_shapes(model_config, dtype)
    if weights == "lora":
        adapter = trained_shapes(config, "lora", model_config)
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), adapter)
    elif weights == "int8-delta":
        shapes = jax.eval_shape(differences, _base(config, model_config, mesh), shapes)
    return _placed(shapes, mesh)


def _frozen(config: Config, model_config: ModelConfig, mesh: Mesh, stage: str) -> Frozen:
    needed = passes(config, stage)
    if stage == "undo":
        # The unlearned model is held in model.dtype: int8 would round away what unlearning changed.
        return Frozen(base=_placed(param_shapes(model_config, jnp.dtype(config.model.dtype)), mesh))
    return Frozen(
        base=_base(config, model_config, mesh) if needed.base else None,
        reinforced=_reinforced(config, model_config, mesh) if needed.reinforced else None,
    )


def _student(config: Config, model_config: ModelConfig, mesh: Mesh, stage: str) -> tuple[Any, Any, TrainState]:
    """Return optimiser, state shardings and abstract state of a training stage."""
    options = getattr(config, stage)
    _, optimizer = make_adamw(options, options.max_steps or 100)
    shapes = trained_shapes(config, options.weights, model_config)
    shardings = student_shardings(config, stage, shapes, shard_params(shapes, mesh), optimizer, mesh)
    return optimizer, shardings, abstract_state(shapes, optimizer, shardings)


def _batch(config: Config, mesh: Mesh, widths: Widths, rows: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of a batch of the loader."""
    columns = {
        "tokens": (widths.length, np.int32),
        "translated": (widths.translated, np.int32),
        "position_map": (widths.length, np.int32),
        "suppress_ids": (widths.suppressed, np.int32),
        "suppress_from": (widths.suppressed, np.int32),
        "weights": (widths.length, np.float32),
    }
    if config.targets.cache:
        columns["labels"] = (widths.length, np.int32)
    objective = make_objective(config)
    if widths.asks or objective.alternates:
        columns["answer"] = (widths.length, np.float32)
    if objective.alternates:
        dtypes = (np.int32, np.float32, np.float32)
        columns |= {name: (widths.length, dtype) for name, dtype in zip(ALTERNATES, dtypes, strict=True)}
    where = batch_sharding(mesh)
    shapes = {name: ((width,), dtype) for name, (width, dtype) in columns.items()}
    if count := objective.translations:
        kept = (count, widths.length), (count, widths.suppressed), (widths.suppressed,), (widths.suppressed,)
        wide = ((count, widths.translated), *kept)
        shapes |= {name: (shape, np.int32) for name, shape in zip(TRANSLATIONS, wide, strict=True)}
    batch = {
        name: jax.ShapeDtypeStruct((rows, *shape), dtype, sharding=where) for name, (shape, dtype) in shapes.items()
    }
    if config.ilu.weight:
        rows_of = {"tokens": np.int32, "weights": np.float32}
        batch |= {
            UNRELATED + name: jax.ShapeDtypeStruct((config.ilu.rows, config.blocks.length), dtype, sharding=where)
            for name, dtype in rows_of.items()
        }
    return {**batch, "retain": jax.ShapeDtypeStruct((rows,), np.float32, sharding=where)}


def training_program(
    config: Config, model_config: ModelConfig, mesh: Mesh, widths: Widths, stage: str
) -> tuple[Callable, tuple[Any, ...]]:
    """Return the jitted step of a training stage and its arguments as `ShapeDtypeStruct`s.

    The first argument is the state; the batch is the dict that has "tokens".
    """
    rows = getattr(config, stage).batch + (config.retain.rows if stage == "forget" else 0)
    optimizer, shardings, state = _student(config, model_config, mesh, stage)
    forward = make_forward(configured_module(config.model, model_config, mesh))
    step = make_training_step(config, stage, forward, optimizer, mesh, shardings)
    batch = _batch(config, mesh, widths, rows)
    if stage != "forget":
        batch.pop("labels", None)
        batch, _ = take_unrelated(batch)
    if stage == "undo":
        batch.pop("retain")
    return step, (state, _frozen(config, model_config, mesh, stage), batch)


def _trace_label(config: Config, model_config: ModelConfig, mesh: Mesh, widths: Widths, rows: int) -> Any:
    """Trace the labelling pass of `targets.cache`, which runs before the student exists."""
    module = configured_module(config.model, model_config, mesh)
    step = make_label_step(make_forward(module), make_objective(config), step_options(config, "forget"), mesh)
    frozen = Frozen(base=_base(config, model_config, mesh), reinforced=_reinforced(config, model_config, mesh))
    batch = _batch(config, mesh, widths, rows)
    return step.trace(frozen, {name: batch[name] for name in batch if name != "labels"})


def _trace_score(config: Config, model_config: ModelConfig, mesh: Mesh, rows: int, length: int) -> Any:
    """Trace the scoring of the student during training; optimiser state and frozen models also take memory then."""
    _, _, state = _student(config, model_config, mesh, "forget")
    forward = make_forward(configured_module(config.model, model_config, mesh, remat="none"))
    score = make_score_step(forward, mesh, config.targets.tile)
    own = compute_params(state.params)
    frozen = _frozen(config, model_config, mesh, "forget")
    params = forward.apply_delta(frozen.base, own)
    # An adapter's parameters contain base's arrays, which must count only once.
    rest = frozen.replace(base=None) if config.forget.weights == "lora" else frozen
    beside = (state.replace(params=None if own is state.params else state.params.low), rest)
    tokens = jax.ShapeDtypeStruct((rows, length), np.int32, sharding=batch_sharding(mesh))
    # keep_unused keeps the unused arguments, so that their memory counts.
    whole = jax.jit(lambda beside, params, tokens, labels: score(params, tokens, labels), keep_unused=True)
    return whole.trace(beside, params, tokens, tokens)
