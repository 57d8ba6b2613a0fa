"""Suite `harness`: tasks of EleutherAI's lm-evaluation-harness, run by the harness itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError
from jaxforget.evals.rows import Row
from jaxforget.evals.scorers import continuation_scorer
from jaxforget.evals.suite import MissingInput, RunInputs, Suite
from jaxforget.lm.completion import completer
from jaxforget.lm.model import Model


def measure(model: Model, *, tasks: Sequence[str], folder: Path | None = None, limit: int | None = None) -> list[Row]:
    """Measure tasks as {task}_{metric}, with the harness's own standard errors.

    Args:
      model: the model.
      tasks: names that the harness knows, or that YAML files in `folder` define.
      folder: a folder of such files.
      limit: documents of each task, at most.

    Raises:
      UserError: the harness is not installed, or knows no such task.
    """
    lm = harness_model(model)
    from jaxforget.evals.harness_model import run_tasks

    return run_tasks(lm, tasks, model=model.folder.name, folder=folder, limit=limit)


def harness_model(model: Model) -> Any:
    """Return `model` for the harness: `lm_eval.simple_evaluate(model=harness_model(model), ...)`.

    Raises:
      UserError: the harness is not installed.
    """
    try:
        from jaxforget.evals.harness_model import HarnessModel  # the harness is an optional dependency
    except ImportError as error:
        raise UserError(f"lm-evaluation-harness is not installed ({error}); pip install -e '.[eval]'") from None

    def generate(prompts: Sequence[Sequence[int]], new: int, temperature: float, top_p: float) -> list[list[int]]:
        return completer(model, temperature=temperature, top_p=top_p)(prompts, new)

    return HarnessModel(
        continuation_scorer(model),
        generate,
        model.tokenizer,
        max_length=model.config.max_position_embeddings,
        name=str(model.folder),
    )


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    evals = run.config.evals
    if not evals.tasks:
        raise MissingInput("evals.tasks is not set; it names tasks of lm-evaluation-harness, as hellaswag,arc_easy")
    folder = None
    if evals.tasks_folder is not None:
        folder = run.required_path("tasks_folder", "a folder of YAML files that describe tasks", folder=True)
    tasks = [name.strip() for name in evals.tasks.split(",") if name.strip()]
    return {"tasks": tasks, "folder": folder, "limit": evals.benchmark_documents}


SUITE = Suite("tasks of lm-evaluation-harness", measure, options)
