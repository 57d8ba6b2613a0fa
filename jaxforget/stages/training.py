"""Stages `reinforce` and `forget`: models in, the compiled step in its loop, a model out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxforget.config import TrainOptions
from jaxforget.corpus.loader import make_batches, read_all, read_summary, steps_per_epoch
from jaxforget.evals.probes import load_probes, load_prompts
from jaxforget.evals.watch import Questions, Watch, prompt_top_tokens
from jaxforget.files import atomic_folder, read_json, write_json
from jaxforget.lm.model import Model, load, load_delta, make_forward, make_module
from jaxforget.lm.scoring import Scorer
from jaxforget.manifest import fingerprint
from jaxforget.sharding import put_rows
from jaxforget.stages.build import make_adamw, make_training_step, step_options, teachers_used
from jaxforget.stages.card import model_card, plain_card, what_trains
from jaxforget.stages.fit import fit, load_student, save
from jaxforget.stages.hashes import hash_followed, hash_model
from jaxforget.stages.questions import questions_of
from jaxforget.stages.run import Run, fetch, wait_for_all
from jaxforget.train.step import make_label_step
from jaxforget.train.types import Frozen, Params, TrainState


def reinforce(run: Run, mark: str) -> None:
    """Base trained further on the target by plain next-token loss; writes reinforced/.

    `mark` is the fingerprint of the stage's inputs; checkpoints made for another are not continued.
    """
    config = run.config
    if config.model.reinforced is not None:
        run.say(f"  taken from {config.model.reinforced}")
        return
    weights = "lora" if config.reinforce.weights == "lora" else "full"
    # An adapter trains over base as that is held while frozen; whole weights need nothing beside them.
    base = None if weights == "full" else _base(run).params
    student = load_student(run, weights)
    blocks = run.reinforce_blocks
    steps = _steps(blocks, config.reinforce)

    def make_step(forward: Any, optimizer: Any, shardings: TrainState) -> Callable:
        step = make_training_step(config, "reinforce", forward, optimizer, run.mesh, shardings)
        return lambda state, batch: step(state, batch, base)

    def batches(start: int) -> Any:
        return batches_from(run, start, batch=config.reinforce.batch, blocks=blocks)

    schedule, optimizer = make_adamw(config.reinforce, steps)
    params, step = fit(run, "reinforce", mark, student, schedule, optimizer, steps, make_step, batches)
    what = f"base trained {step} steps further on a text: {what_trains(config, 'reinforce')}"
    save(run, run.reinforced, student, params, plain_card(what, config.model.folder), weights)


def forget(run: Run, mark: str) -> None:
    """The student, from base, towards generic labels; writes unlearned/ and the curve of what it forgets on the way."""
    config = run.config
    base = _base(run)
    forward, tokenizer = make_forward(base.module), base.tokenizer
    scorer = Scorer(forward, run.mesh, batch=config.evals.batch, tile=config.targets.tile)
    questions = questions_of(config, load_probes(config.evals.probes), load_prompts(config.evals.prompts), tokenizer)
    asked = hash_followed(run)
    # Whatever is asked of other models is asked before there is a student: its state leaves no room for another.
    references = _references(run, base, scorer, questions)
    labels = _cached_labels(run, base) if config.targets.cache else None
    use_base, use_reinforced = teachers_used(config)
    frozen = Frozen(
        base=base.params if use_base else None, reinforced=_reinforced(run, base) if use_reinforced else None
    )
    del base  # else it would stay beside a step that has cached labels and no use for it
    student = load_student(run, config.forget.weights)
    steps = _steps(run.blocks, config.forget)

    def make_step(forward: Any, optimizer: Any, shardings: TrainState) -> Callable:
        step = make_training_step(config, "forget", forward, optimizer, run.mesh, shardings)
        return lambda state, batch: step(state, frozen, batch)

    def batches(start: int) -> Any:
        return batches_from(run, start, batch=config.forget.batch, retain=True, labels=labels)

    def watch(first_step: int) -> Callable[[int, Any], dict[str, float]]:
        seen = Watch(run.folder, scorer, questions, tokenizer, first_step=first_step, asked=asked)
        for name, tops in references.items():
            seen.reference(name, tops)
        return lambda step, own: seen(step, forward.apply_delta(frozen.base, own))

    schedule, optimizer = make_adamw(config.forget, steps)
    params, step = fit(
        run, "forget", mark, student, schedule, optimizer, steps, make_step, batches, watch, config.forget.select
    )
    card = model_card(config, f"unlearned: {step} steps towards generic labels")
    save(run, run.unlearned, student, params, card, config.forget.weights)
    if jax.process_index() == 0:
        write_json(run.unlearned / "steps.json", {"steps": step})


def _base(run: Run) -> Model:
    model = run.config.model
    return load(run.base, model.dtype, run.mesh, attention=model.attention, form=model.base)


def _reinforced(run: Run, base: Model) -> Params:
    """What the reinforced model has of its own over `base`."""
    form = "int8-delta" if run.config.reinforce.weights == "int8-delta" else "full"
    return load_delta(run.reinforced, base, run.config.model.dtype, form)


def _references(run: Run, base: Model, scorer: Scorer, questions: Questions) -> dict[str, list[list[dict[str, Any]]]]:
    """The likeliest tokens of the models that the student's are shown beside; the control is gone again after it."""
    found = {"base": prompt_top_tokens(scorer, base.params, questions, base.tokenizer)}
    if run.control is not None and questions.dynamics:
        control = load(run.control, run.config.model.dtype, run.mesh, attention=run.config.model.attention)
        found["control"] = prompt_top_tokens(scorer, control.params, questions, base.tokenizer)
    return found


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


def _cached_labels(run: Run, base: Model) -> np.ndarray:
    """Generic labels of every training block, int32 [blocks, S]; made once, stored in labels/."""
    config = run.config
    folder = run.folder / "labels"
    note = folder / "labels.json"
    inputs = _label_inputs(run)
    mark = fingerprint(inputs)
    if not note.is_file() or read_json(note)["fingerprint"] != mark:
        module = make_module(base.config, run.mesh, config.model.dtype, config.model.remat, config.model.attention)
        label_step = make_label_step(make_forward(module), step_options(config, "forget"), run.mesh)
        frozen = Frozen(base=base.params, reinforced=_reinforced(run, base))
        # In batches of the step's own size, so that the same program rounds the same way.
        batches = read_all(run.blocks, "train", config.forget.batch + config.retain.rows)
        found = [fetch(label_step(frozen, put_rows(batch, run.mesh))) for batch in batches]
        count = read_summary(run.blocks)["splits"]["train"]
        if jax.process_index() == 0:
            with atomic_folder(folder) as partial:
                np.save(partial / "train.npy", np.concatenate(found)[:count])
                write_json(partial / "labels.json", {"fingerprint": mark, "blocks": count, "inputs": inputs})
        wait_for_all("labels")
        run.say(f"  {count:,} blocks labelled once")
    return np.load(folder / "train.npy", mmap_mode="r")


def _label_inputs(run: Run) -> dict[str, str]:
    """All that a label depends on: text, models and how they are held, equation 1, and the rows computed together."""
    config = run.config
    stages = {name: run.manifest.stage(name)["fingerprint"] for name in ("prepare", "reinforce")}
    return stages | {
        "model.folder": hash_model(run, run.base),
        "model.dtype": config.model.dtype,
        "model.base": config.model.base,
        "reinforce.weights": config.reinforce.weights,
        "targets.alpha": repr(config.targets.alpha),
        "rows": str(config.forget.batch + config.retain.rows),
    }
