"""Training of a stage: a student, a compiled step and batches, from the latest checkpoint to the last step."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxforget.config import TrainOptions
from jaxforget.corpus.batches import make_batches, read_summary
from jaxforget.cpu import keep_freed_memory
from jaxforget.lm.forward import configured_module, make_forward
from jaxforget.lm.model import Model, load
from jaxforget.models.adapters import save_adapter
from jaxforget.models.export import save_params
from jaxforget.models.folders import read_config
from jaxforget.models.tokenizer import load_tokenizer
from jaxforget.models.weights import init_adapter
from jaxforget.sharding import put_batch, shard_params
from jaxforget.stages.build import make_adamw, make_training_step, student_shardings, trained_shapes
from jaxforget.stages.run import Run
from jaxforget.train.checkpoint import Checkpoints
from jaxforget.train.loop import LoopOptions, run_loop
from jaxforget.train.metrics import MetricsLog
from jaxforget.train.objectives import Objective
from jaxforget.train.precision import joined
from jaxforget.train.state import abstract_state, init_state
from jaxforget.train.types import Forward, Frozen, TrainState
from jaxforget.train.wrappers import UNRELATED


def load_student(run: Run, weights: str = "full") -> Model:
    """Load a model whose `params` are the weights to train, in fp32; the state takes over their buffers.

    Args:
      run: the run.
      weights: "full" for a copy of base, "lora" for a new adapter without base's weights.
    """
    config = run.config
    if weights == "full":
        base = load(run.base, "float32", run.mesh)
        return dataclasses.replace(
            base,
            module=configured_module(config.model, base.config, run.mesh),
        )
    model_config, raw = read_config(run.base)
    shapes = trained_shapes(config, weights, model_config)
    adapter = init_adapter(shapes, shard_params(shapes, run.mesh), config.seed)
    module = configured_module(config.model, model_config, run.mesh)
    return Model(model_config, adapter, load_tokenizer(run.base), module, run.mesh, run.base, raw, run.base)


@dataclasses.dataclass(frozen=True)
class Training:
    """The training of one stage, as `fit` takes it.

    Attributes:
      stage: name of the stage, "reinforce", "forget" or "undo"; its checkpoints and records have this name.
      fingerprint: digest of the stage's inputs; checkpoints with another one are discarded.
      student: the model to train; the state takes over its buffers.
      frozen: the frozen models that the step reads.
      steps: number of training steps.
      schedule: step -> learning rate, the same as in `optimizer`, for the log.
      optimizer: the optimiser.
      make_step: (forward, optimizer, mesh, state shardings) -> compiled (state, frozen, batch) -> (state, metrics).
      batches: first step -> a closeable iterator of this process's rows.
      watch: first step -> a function (step, trained weights) -> metrics, called during training; None for no measures.
      select: the metric whose best checkpoint is the result, or "last".
    """

    stage: str
    fingerprint: str
    student: Model
    frozen: Frozen
    steps: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    make_step: Callable[[Forward, optax.GradientTransformation, Mesh, TrainState], Callable]
    batches: Callable[[int], Any]
    watch: Callable[[int], Callable[[int, Any], dict[str, float]]] | None = None
    select: str = "last"


def configured_training(
    run: Run,
    stage: str,
    fingerprint: str,
    student: Model,
    frozen: Frozen,
    batches: Callable[[int], Any],
    objective: Objective | None = None,
    **more: Any,
) -> Training:
    """Return the training of a stage with the steps, the optimiser and the compiled step of its options.

    Args:
      run: the run.
      stage: "reinforce", "forget" or "undo".
      fingerprint, student, frozen, batches: as in `Training`.
      objective: in place of the one that the configuration describes, where blocks of the run complete it.
      more: `watch` and `select` of `Training`.
    """
    options = getattr(run.config, stage)
    steps = count_steps(read_summary(run.training_blocks(stage))["splits"]["train"], options)
    step = partial(make_training_step, run.config, stage, objective=objective)
    return Training(stage, fingerprint, student, frozen, steps, *make_adamw(options, steps), step, batches, **more)


def fit(run: Run, training: Training) -> tuple[Any, int]:
    """Train a stage from its latest checkpoint; return the selected parameters, fp32, and their step."""
    config = run.config
    if jax.default_backend() == "cpu":
        keep_freed_memory()
    stage, student, optimizer, select = training.stage, training.student, training.optimizer, training.select
    shapes = jax.eval_shape(lambda: student.params)
    where = jax.tree.map(lambda p: p.sharding, student.params)
    shardings = student_shardings(config, stage, shapes, where, optimizer, run.mesh)
    checkpoints = Checkpoints(run.checkpoints(stage), training.fingerprint, keep=config.checkpoints.keep, select=select)
    iterator = None
    log = None
    waits = True
    try:
        damaged = checkpoints.drop_damaged()
        latest = checkpoints.latest()
        # The best one is read now, too: if it is damaged, the best of the later steps is kept in its place.
        for line in [*damaged, *checkpoints.drop_damaged(best=True, but=latest)]:
            run.say(f"  warning: {line}")
        if checkpoints.discarded is not None:
            run.say(f"  starting over: inputs or options changed since the checkpoint of step {checkpoints.discarded}")
        if latest is None:
            state = init_state(student.params, optimizer, shardings)
        else:
            run.say(f"  continuing from the checkpoint of step {latest}")
            jax.tree.map(lambda p: p.delete(), student.params)
            state = checkpoints.restore(latest, abstract_state(shapes, optimizer, shardings))
        first = latest or 0
        iterator = training.batches(first)
        evaluate = None if training.watch is None else training.watch(first)
        log = MetricsLog(
            run.folder,
            stage,
            first_step=first,
            total_steps=training.steps,
            active=jax.process_index() == 0,
            wandb=config.log.wandb,
            settings=dataclasses.asdict(config),
        )
        step = training.make_step(make_forward(student.module), optimizer, run.mesh, shardings)
        state = run_loop(
            state,
            lambda state, batch: step(state, training.frozen, batch),
            (put_batch(batch, run.mesh) for batch in iterator),
            LoopOptions(stage, training.steps, config.checkpoints.every, config.evals.every if evaluate else 0),
            checkpoints=checkpoints,
            log=log,
            learning_rate=training.schedule,
            evaluate=evaluate,
        )
        damaged = checkpoints.drop_damaged(best=True, but=training.steps)
        for line in damaged:
            run.say(f"  warning: {line}")
        best = checkpoints.best()
        if damaged or best not in (None, training.steps):
            of = " of the undamaged checkpoints" if damaged else ""
            run.say(f"  step {best} has the best {select}{of}; it becomes the result")
        if best not in (None, training.steps):
            # The memory may hold only one state.
            jax.tree.map(lambda leaf: leaf.delete(), state)
            state = checkpoints.restore(best, abstract_state(shapes, optimizer, shardings))
            return joined(state.params), best
        return joined(state.params), training.steps
    except KeyboardInterrupt:
        # An interrupted run does not wait for a save that is under way; an unfinished checkpoint is never read.
        waits = False
        raise
    finally:
        if log is not None:
            log.close()
        if iterator is not None:
            iterator.close()
        if waits:
            checkpoints.close()


def count_steps(blocks: int, options: TrainOptions) -> int:
    """Return the number of steps of a training stage: `max_steps`, or those of the epochs over `blocks` blocks."""
    if options.max_steps is not None:
        return options.max_steps
    return max(1, round(options.epochs * math.ceil(blocks / options.batch)))


def batches_from(
    run: Run,
    start: int,
    *,
    batch: int,
    blocks: Path | None = None,
    retain: bool = False,
    labels: np.ndarray | None = None,
) -> Any:
    """Return an iterator of this process's rows of the batches.

    Args:
      run: the run.
      start: first step.
      batch: blocks a batch, over all processes.
      blocks: folder of the blocks; None for the run's translated ones.
      retain: add the retain rows to each batch.
      labels: cached labels of the blocks, or None.
    """
    rows = run.config.retain.rows if retain else 0
    return make_batches(
        run.blocks if blocks is None else blocks,
        "train",
        batch_size=batch,
        seed=run.config.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        start=start,
        retain_folder=run.retain_blocks if rows else None,
        retain_rows=rows,
        labels=labels,
    )


def with_unrelated(run: Run, start: int, batches: Any) -> Any:
    """Return `batches`, which start at step `start`, with rows of unrelated text in each (ilu.*), if the run has them.

    Args:
      run: the run.
      start: first step.
      batches: a closeable iterator of this process's rows.
    """
    if run.unrelated_blocks is None:
        return batches
    others = batches_from(run, start, batch=run.config.ilu.rows, blocks=run.unrelated_blocks)

    def joined() -> Any:
        try:
            for batch, other in zip(batches, others, strict=True):
                names = [name for name in ("tokens", "weights", "answer") if name in other]
                yield {**batch, **{UNRELATED + name: other[name] for name in names}}
        finally:
            batches.close()
            others.close()

    return joined()


def save(run: Run, folder: Path, student: Model, params: Any, card: str, weights: str = "full") -> None:
    """Write the trained weights in fp32, so that nothing is rounded, as a Hugging Face folder or an adapter."""
    if weights == "lora":
        given = run.config.model.folder
        # A relative path would name another folder when the adapter is loaded from another working directory.
        named = str(Path(given).resolve()) if Path(given).is_dir() else given
        save_adapter(folder, params, student.config, student.raw_config, run.base, named, card)
        return
    save_params(
        folder,
        params,
        student.config,
        student.raw_config,
        student.folder,
        dtype="float32",
        max_shard_bytes=int(run.config.export.shard_gigabytes * 1e9),
        model_card=card,
    )
