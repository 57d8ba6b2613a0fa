"""Stage `forget`: trains the student, which starts from base, to forget the text."""

from collections.abc import Callable
from typing import Any

import jax

from jaxforget.corpus.batches import read_summary
from jaxforget.evals.probes import load_probes, load_prompts
from jaxforget.evals.watch import Questions, Watch, prompt_top_tokens
from jaxforget.files import write_json
from jaxforget.lm.forward import make_forward
from jaxforget.lm.model import Model, load, materialize
from jaxforget.lm.scoring import Scorer
from jaxforget.stages.build import passes
from jaxforget.stages.card import model_card
from jaxforget.stages.fit import batches_from, configured_training, fit, load_student, save, with_unrelated
from jaxforget.stages.frozen_models import load_base, load_reinforced
from jaxforget.stages.hashes import hash_followed
from jaxforget.stages.labels import SAMPLE, cached_labels, compute_labels, say_label_share
from jaxforget.stages.questions import questions_of
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage
from jaxforget.train.types import Frozen, Params


def needs(run: Run) -> Needs:
    """Return the inputs: the blocks, the models, and the questions where a measure selects the checkpoint."""
    config = run.config
    selects = config.forget.select != "last"
    return Needs(
        ("prepare", "reinforce") if run.objective.needs_reinforced else ("prepare",),
        models={"model.folder": run.base},
        texts={"evals.heldout": run.heldout} if selects else {},
        files={"evals.probes": config.evals.probes} if selects else {},
        unused=[*([] if selects else ["evals"]), *([] if config.forget.weights == "lora" else ["lora"])],
    )


def forget(run: Run, fingerprint: str) -> None:
    """Train the student, which starts from base; write unlearned/ and the curve of the measures during training.

    Args:
      run: the run.
      fingerprint: digest of the stage's inputs; checkpoints with another one are discarded.
    """
    config = run.config
    base = load_base(run)
    forward, tokenizer = make_forward(base.module), base.tokenizer
    scorer = Scorer(forward, run.mesh, batch=config.evals.batch, tile=config.targets.tile)
    questions = questions_of(config, load_probes(config.evals.probes), load_prompts(config.evals.prompts), tokenizer)
    asked = hash_followed(run)
    # Other models are measured before the student exists, because its state leaves no memory for another model.
    references = _references(run, base, scorer, questions)
    summary = read_summary(run.blocks)
    sample = min(SAMPLE, summary["splits"]["train"])
    labels = cached_labels(run, base) if config.targets.cache else None
    needed = passes(config, "forget")
    frozen = Frozen(
        base=base.params if needed.base else None,
        reinforced=load_reinforced(run, base) if needed.reinforced else None,
    )
    if labels is not None:
        say_label_share(run, labels[:sample])
    elif run.objective.generic_targets:
        say_label_share(run, compute_labels(run, base, frozen.reinforced, sample))
    objective = run.objective.prepared(summary)
    del base  # frees its memory if the step reads cached labels and does not need base
    student = load_student(run, config.forget.weights)

    def batches(start: int) -> Any:
        own = batches_from(run, start, batch=config.forget.batch, retain=True, labels=labels)
        return with_unrelated(run, start, own)

    def watch(first_step: int) -> Callable[[int, Any], dict[str, float]]:
        seen = Watch(run.folder, scorer, questions, tokenizer, first_step=first_step, inputs=asked)
        for name, tops in references.items():
            seen.reference(name, tops)
        return lambda step, own: seen(step, forward.apply_delta(frozen.base, own))

    if run.objective.trains:
        select = config.forget.select
        training = configured_training(
            run, "forget", fingerprint, student, frozen, batches, objective, watch=watch, select=select
        )
        params, step = fit(run, training)
    else:
        params, step = _computed(run, student, watch(0)), 1
    card = model_card(config, f"unlearned: {step} steps of {config.method}")
    save(run, run.forgotten, student, params, card, config.forget.weights)
    if jax.process_index() == 0:
        write_json(run.forgotten / "steps.json", {"steps": step})


def _computed(run: Run, student: Model, watch: Callable[[int, Any], dict[str, float]]) -> Params:
    """Return the weights of a method that computes them without training; measure before and after."""
    watch(0, student.params)
    reinforced = materialize(load(run.reinforced, "float32", run.mesh)).params
    shardings = jax.tree.map(lambda leaf: leaf.sharding, student.params)
    params = jax.jit(run.objective.weights, out_shardings=shardings)(student.params, reinforced)
    watch(1, params)
    return params


def _references(run: Run, base: Model, scorer: Scorer, questions: Questions) -> dict[str, list[list[dict[str, Any]]]]:
    """Return the most likely tokens of base and, if there is one, the control, which is freed afterwards."""
    found = {"base": prompt_top_tokens(scorer, base.params, questions, base.tokenizer)}
    if run.control is not None and questions.dynamics:
        control = load(run.control, run.config.model.dtype, run.mesh, attention=run.config.model.attention)
        found["control"] = prompt_top_tokens(scorer, control.params, questions, base.tokenizer)
    return found


STAGE = Stage(
    "forget",
    needs,
    forget,
    lambda run: [run.forgotten / "config.json", run.forgotten / "steps.json", run.evals / "curve.json"],
    trains=True,
    keeps=True,
)
