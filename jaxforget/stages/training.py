"""Stages `reinforce` and `forget`: models in, the compiled step in its loop, a model out."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxforget.config import TrainOptions
from jaxforget.corpus.loader import make_batches, read_all, read_summary, steps_per_epoch
from jaxforget.evals.probes import load_probes, load_prompts
from jaxforget.evals.scoring import Scorer
from jaxforget.evals.watch import Watch
from jaxforget.files import atomic_folder, read_json, write_json
from jaxforget.model import Model, load, make_forward
from jaxforget.stages.build import make_adamw, make_training_step, step_options, teachers_used
from jaxforget.stages.card import model_card, plain_card
from jaxforget.stages.fit import fit, load_student, save
from jaxforget.stages.questions import questions_of
from jaxforget.stages.run import Run, fetch, put_rows, wait_for_all
from jaxforget.train.step import make_label_step
from jaxforget.train.types import Frozen, TrainState


def reinforce(run: Run, mark: str) -> None:
    """Base trained further on the target by plain next-token loss; writes reinforced/.

    `mark` is the fingerprint of the stage's inputs; checkpoints made for another are not continued.
    """
    config = run.config
    if config.model.reinforced is not None:
        run.say(f"  taken from {config.model.reinforced}")
        return
    student = load_student(run)
    blocks = run.reinforce_blocks
    steps = _steps(blocks, config.reinforce)

    def make_step(forward: Any, optimizer: Any, shardings: TrainState) -> Callable:
        return make_training_step(config, "reinforce", forward, optimizer, run.mesh, shardings)

    def batches(start: int) -> Any:
        return batches_from(run, start, batch=config.reinforce.batch, blocks=blocks)

    schedule, optimizer = make_adamw(config.reinforce, steps)
    params, step = fit(run, "reinforce", mark, student, schedule, optimizer, steps, make_step, batches)
    save(
        run,
        run.reinforced,
        student,
        params,
        plain_card(f"base trained {step} steps further on a text", config.model.folder),
    )
    if jax.process_index() == 0:
        # The mark goes first: a process killed halfway leaves checkpoints that nobody takes for whole.
        (run.checkpoints("reinforce") / "fingerprint.json").unlink(missing_ok=True)
        shutil.rmtree(run.checkpoints("reinforce"), ignore_errors=True)


def forget(run: Run, mark: str) -> None:
    """The student, from base, towards generic labels; writes unlearned/ and the curve of what it forgets on the way."""
    config = run.config
    dtype = config.model.dtype
    base = load(run.base, dtype, run.mesh)
    use_base, use_reinforced = teachers_used(config)
    student = load_student(run)
    labels = None
    if config.targets.cache:
        options = step_options(config, "forget")
        labels = _cached_labels(run, base, make_label_step(make_forward(student.module), options, run.mesh), mark)
    frozen = Frozen(
        base=base.params if use_base else None, reinforced=_reinforced(run).params if use_reinforced else None
    )
    steps = _steps(run.blocks, config.forget)
    scorer = Scorer(make_forward(base.module), run.mesh, batch=config.evals.batch, tile=config.targets.tile)
    questions = questions_of(
        config, load_probes(config.evals.probes), load_prompts(config.evals.prompts), base.tokenizer
    )

    def make_step(forward: Any, optimizer: Any, shardings: TrainState) -> Callable:
        step = make_training_step(config, "forget", forward, optimizer, run.mesh, shardings)
        return lambda state, batch: step(state, frozen, batch)

    def batches(start: int) -> Any:
        return batches_from(run, start, batch=config.forget.batch, retain=True, labels=labels)

    def watch(first_step: int) -> Watch:
        seen = Watch(run.folder, scorer, questions, base.tokenizer, first_step=first_step)
        if first_step == 0:
            seen.reference("base", base.params)
            if run.control is not None:
                seen.reference("control", load(run.control, dtype, run.mesh).params)
        return seen

    schedule, optimizer = make_adamw(config.forget, steps)
    params, step = fit(
        run, "forget", mark, student, schedule, optimizer, steps, make_step, batches, watch, config.forget.select
    )
    save(run, run.unlearned, student, params, model_card(config, f"unlearned: {step} steps towards generic labels"))
    if jax.process_index() == 0:
        write_json(run.unlearned / "steps.json", {"steps": step})


def _steps(blocks: Path, options: TrainOptions) -> int:
    if options.max_steps is not None:
        return options.max_steps
    return max(1, round(options.epochs * steps_per_epoch(blocks, "train", options.batch)))


def batches_from(
    run: Run,
    start: int,
    *,
    batch: int,
    blocks: Path | None = None,
    retain: bool = False,
    labels: np.ndarray | None = None,
) -> Any:
    """Batches of `batch` blocks, and the retain rows if asked, from step `start` on: this process's rows.

    `blocks` is their folder; None takes the run's translated ones.
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


def _cached_labels(run: Run, base: Model, label_step: Callable, mark: str) -> np.ndarray:
    """Generic labels of every training block, int32 [blocks, S]; made once, stored in labels/."""
    folder = run.folder / "labels"
    note = folder / "labels.json"
    if not note.is_file() or read_json(note)["fingerprint"] != mark:
        frozen = Frozen(base=base.params, reinforced=_reinforced(run).params)
        # In batches of the step's own size, so that the same program rounds the same way.
        batches = read_all(run.blocks, "train", run.config.forget.batch + run.config.retain.rows)
        found = [fetch(label_step(frozen, put_rows(batch, run.mesh))) for batch in batches]
        count = read_summary(run.blocks)["splits"]["train"]
        if jax.process_index() == 0:
            with atomic_folder(folder) as partial:
                np.save(partial / "train.npy", np.concatenate(found)[:count])
                write_json(partial / "labels.json", {"fingerprint": mark, "blocks": count})
        wait_for_all("labels")
        run.say(f"  {count:,} blocks labelled once")
    return np.load(folder / "train.npy", mmap_mode="r")


def _reinforced(run: Run) -> Model:
    return load(run.reinforced, run.config.model.dtype, run.mesh)
