"""The published evaluations on a loaded model: each reads its files, asks, and gives rows of evidence."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals import tofu as tofu_eval
from jaxforget.evals.benchmarks import BENCHMARKS, load_benchmark
from jaxforget.evals.evidence import check_convention
from jaxforget.evals.memorization import (
    PASSAGE,
    cut_passages,
    membership_outcomes,
    membership_rows,
    memorization_rows,
)
from jaxforget.evals.multiple_choice import Score, load_choices, multiple_choice_rows
from jaxforget.evals.muse import (
    CONVENTIONS,
    MuseData,
    check_auc,
    load_muse,
    muse_rows,
    privleak_auc,
)
from jaxforget.evals.outcomes import ABOVE, Outcome, outcome_rows
from jaxforget.lm.completion import completer
from jaxforget.lm.continuations import ContinuationScorer
from jaxforget.lm.forward import make_forward
from jaxforget.lm.generate import Complete
from jaxforget.lm.model import Model
from jaxforget.lm.token_statistics import StatisticsScorer
from jaxforget.models.transformer import Transformer

BATCH, TILE = 16, 1024


def muse(
    model: Model,
    data: str | Path,
    *,
    convention: str = "muse",
    auc_control: float | None = None,
    control: Model | None = None,
    complete: Complete | None = None,
) -> list[dict[str, Any]]:
    """MUSE on the files in the folder `data`; see `jaxforget.evals.muse.muse_rows`.

    Args:
      model: what is evaluated.
      data: the folder.
      convention: "muse" or "open-unlearning".
      auc_control: privleak's reference, a figure.
      control: or the model to take it from.
      complete: the model's greedy generation, where not `completer(model)`.
    """
    check_convention(convention, CONVENTIONS)
    check_auc(auc_control)
    if control is not None and auc_control is not None:
        raise UserError("auc_control and control both say what privleak is read against; give one")
    files: MuseData = load_muse(data)
    if control is not None:
        auc_control = privleak_auc(files, scorer(control), control.params, control.tokenizer, convention)
        if not auc_control:
            raise UserError(
                f"{control.folder}: its AUC is 0, against which no privleak can be read: a control that tells the "
                "forget set from the holdout every time has seen it"
            )
    return muse_rows(
        files,
        **asked(model),
        complete=complete or completer(model),
        convention=convention,
        auc_control=auc_control,
    )


def tofu(
    model: Model,
    data: str | Path,
    *,
    convention: str = "tofu",
    control: Model | None = None,
    template: str = tofu_eval.TEMPLATE,
    limit: int | None = None,
    complete: Complete | None = None,
) -> list[dict[str, Any]]:
    """TOFU on the files in the folder `data`; see `jaxforget.evals.tofu.tofu_rows`.

    Args:
      model: what is evaluated.
      data: the folder.
      convention: "tofu" or "open-unlearning".
      control: a model that never saw the forget set, for forget_quality.
      template: what stands before an answer, with {question} in it.
      limit: the first so many questions of each set.
      complete: the model's greedy generation, where not `completer(model)`.
    """
    check_convention(convention, tuple(tofu_eval.CONVENTIONS))
    if "{question}" not in template:
        raise UserError(f"template={template!r}: holds no {{question}}; write one, as {tofu_eval.TEMPLATE!r}")
    files = tofu_eval.load_tofu(data, limit)

    def asker(asked: Model) -> tofu_eval.Asker:
        return tofu_eval.Asker(scorer(asked), asked.params, asked.tokenizer, convention, template)

    ratios = None if control is None else asker(control).ratios(files["forget"])
    made = complete or completer(model)
    return tofu_eval.tofu_rows(files, asker(model), made, model=model.folder.name, control_ratios=ratios)


def memorization(
    model: Model,
    data: str | Path | Source,
    *,
    holdout: str | Path | Source | None = None,
    length: int = PASSAGE,
    limit: int = 200,
    field: str = "text",
) -> list[dict[str, Any]]:
    """Memorisation of the text in `data`; see `jaxforget.evals.memorization.memorization_rows`.

    Args:
      model: what is evaluated.
      data: a file or folder of text, as corpus.path.
      holdout: the same kind of text that no model trained on, for the attacks' AUC.
      length: tokens of a passage.
      limit: passages of each text.
      field: of .jsonl records.
    """
    target, other = (
        [] if path is None else passages_of(_source(path, field), model, length=length, limit=limit)
        for path in (data, holdout)
    )
    return memorization_rows(target, **asked(model), complete=completer(model), holdout=other)


def multiple_choice(model: Model, data: str | Path, *, delimiter: str = " ") -> list[dict[str, Any]]:
    """Multiple choice on the documents in the file `data`; see `jaxforget.evals.multiple_choice`."""
    length = model.config.max_position_embeddings
    return multiple_choice_rows(
        load_choices(data),
        score=endings(model),
        tokenizer=model.tokenizer,
        model=model.folder.name,
        delimiter=delimiter,
        max_length=length,
    )


def benchmark(model: Model, name: str, folder: str | Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """A benchmark of `jaxforget.evals.benchmarks` on data in `folder`; its metrics as {name}_acc, ..."""
    documents = load_benchmark(name, folder, limit)
    rows = multiple_choice_rows(
        documents,
        score=endings(model),
        tokenizer=model.tokenizer,
        model=model.folder.name,
        max_length=model.config.max_position_embeddings,
        metrics=BENCHMARKS[name].metrics,
    )
    return [{**row, "metric": f"{name}_{row['metric']}"} for row in rows]


def harness(
    model: Model, tasks: Sequence[str], *, folder: str | Path | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Tasks of lm-evaluation-harness, run by it on `model`: {task}_{metric}, with the harness's own standard errors.

    Args:
      tasks: names that the harness knows, or that YAML files in `folder` give.
      folder: of such files.
      limit: documents of each task.

    Raises:
      UserError: the harness is not installed, or knows no such task.
    """
    lm = harness_model(model)
    from jaxforget.evals.harness import run_tasks

    return run_tasks(lm, tasks, model=model.folder.name, folder=folder, limit=limit)


def membership(
    model: Model,
    data: str | Path | Source,
    *,
    holdout: str | Path | Source,
    control: Model | None = None,
    length: int = PASSAGE,
    limit: int = 200,
    field: str = "text",
) -> list[dict[str, Any]]:
    """Whether the text in `data` is told from `holdout`, which no model read; as `memorization`, but that alone.

    With a `control` of the same tokens, also how far each AUC lies above the control's.
    """
    passages = [passages_of(_source(path, field), model, length=length, limit=limit) for path in (data, holdout)]
    rows = membership_rows(*passages, **asked(model))
    if control is None or control.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        return rows

    def outcomes(attacked: Model) -> list[Outcome]:
        return membership_outcomes(
            *passages, scorer=scorer(attacked), params=attacked.params, tokenizer=attacked.tokenizer
        )

    # The figures themselves are drawn over both texts; their differences passage by passage of the target.
    beside = outcome_rows(outcomes(model), outcomes(control), model.folder.name)
    return rows + [row for row in beside if row["metric"].endswith(ABOVE)]


def _source(place: str | Path | Source, field: str) -> Source:
    return place if isinstance(place, Source) else Source(place, field)


def passages_of(source: Source, model: Model, *, length: int, limit: int) -> list[list[int]]:
    """Return passages of a text in the model's tokens; see `jaxforget.evals.memorization.cut_passages`."""
    for name, value in (("length", length), ("limit", limit)):
        if value < 2:
            raise UserError(f"{name}={value}: must be at least 2")
    texts = (document.text for document in source.documents())
    return cut_passages(texts, model.tokenizer, length=length, limit=limit)


def asked(model: Model) -> dict[str, Any]:
    """The arguments that every suite takes of a model."""
    return {
        "scorer": scorer(model),
        "params": model.params,
        "tokenizer": model.tokenizer,
        "model": model.folder.name,
    }


def scorer(model: Model) -> StatisticsScorer:
    """Of the model's architecture; the same one for every model of that architecture on that mesh."""
    return _scorer(model.module, model.mesh)


@functools.lru_cache(maxsize=4)
def _scorer(module: Transformer, mesh: Mesh) -> StatisticsScorer:
    # Kept, so that model after model of one run compiles once.
    return StatisticsScorer(make_forward(module), mesh, batch=BATCH, tile=TILE)


def endings(model: Model) -> Score:
    """How likely endings are after beginnings, by `model`."""
    return functools.partial(_ending_scorer(model.module, model.mesh), model.params)


@functools.lru_cache(maxsize=4)
def _ending_scorer(module: Transformer, mesh: Mesh) -> ContinuationScorer:
    return ContinuationScorer(module, mesh)


def harness_model(model: Model) -> Any:
    """`model` as one of lm-evaluation-harness's models: `lm_eval.simple_evaluate(model=harness_model(model), ...)`.

    Raises:
      UserError: the harness is not installed.
    """
    try:
        from jaxforget.evals.harness import HarnessModel
    except ImportError as error:
        raise UserError(f"lm-evaluation-harness is not installed ({error}); pip install -e '.[eval]'") from None

    def make(prompts: Sequence[Sequence[int]], new: int, temperature: float, top_p: float) -> list[list[int]]:
        return completer(model, temperature=temperature, top_p=top_p)(prompts, new)

    return HarnessModel(
        endings(model),
        make,
        model.tokenizer,
        max_length=model.config.max_position_embeddings,
        name=str(model.folder),
    )


def remembered(complete: Complete) -> Complete:
    """`complete`, which generates nothing twice."""
    made: dict[tuple[Any, int], list[list[int]]] = {}

    def recall(prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        key = (tuple(tuple(prompt) for prompt in prompts), new_tokens)
        if key not in made:
            made[key] = complete(prompts, new_tokens)
        return made[key]

    return recall
