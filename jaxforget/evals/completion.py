"""Suite `completion`: familiarity by completion (WHP section 3).

The suite's workspace holds prompts.json, texts/MODEL.json (the completions), answers.jsonl (an endpoint's answers) and
MODEL.json (every completion with its grade and the grader's own words).
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.config.schema import EndpointOptions
from jaxforget.corpus.text import Source
from jaxforget.endpoint import Endpoint, Settings, settings_from
from jaxforget.errors import UserError
from jaxforget.evals import graders
from jaxforget.evals.completion_prompts import (
    MadePrompts,
    Prompt,
    as_records,
    load_completion_prompts,
    maker_questions,
    prompts_made,
    prompts_offline,
)
from jaxforget.evals.prompting import cues_of
from jaxforget.evals.rows import Row, make_row, mean_row
from jaxforget.evals.suite import MissingInput, RunInputs, Suite, Workspace
from jaxforget.lm.completion import complete
from jaxforget.lm.model import Model

UNUSABLE = 0.1  # share of a prompt maker's answers that may be unusable; of a grader's answers none may be
CLASSES = ("none", "a lucky guess", "typical of the target's themes", "unique to the target")


def measure(
    model: Model,
    *,
    prompts: Path | None = None,
    data: Source | None = None,
    anchors: Path | None = None,
    keep_all_anchors: bool = False,
    heldout: Source | None = None,
    count: int = 300,
    new_tokens: int = 48,
    temperature: float = 0.0,
    seed: int = 0,
    maker: EndpointOptions | None = None,
    grader: EndpointOptions | None = None,
    workspace: Workspace | None = None,
) -> list[Row]:
    """Complete prompts that hint at the target, and grade the completions.

    Args:
      model: the model.
      prompts: a file of records {"prompt", "references", "subtlety"}; without it, prompts are made from `data`.
      data: the text to forget.
      anchors: its dictionary; its keys count as knowledge too.
      keep_all_anchors: use the entries that the dictionary's filter removes too.
      heldout: general text; its lower-case words are not unique to the target.
      count: number of prompts that are made, at most.
      new_tokens: tokens of a completion.
      temperature: 0 takes the most likely token.
      seed: seed of the choice of prompts and of sampling.
      maker: the endpoint that makes prompts; None makes them from passages with anchors.
      grader: the endpoint that grades; None grades offline. Both endpoints need a workspace.
      workspace: the suite's files.
    """
    cues = cues_of(anchors, keep_all_anchors)
    asked = find_prompts(prompts, data, cues, count=count, seed=seed, maker=maker, workspace=workspace)

    def continuations(prompts: Sequence[str], new_tokens: int, temperature: float, seed: int) -> list[str]:
        return complete(model, prompts, new_tokens, temperature=temperature, seed=seed)

    values = {"prompts": [prompt.prompt for prompt in asked], "new_tokens": new_tokens}
    values |= {"temperature": temperature, "seed": seed}
    if workspace is None:
        texts = continuations(**values)
    else:
        workspace.write("prompts.json", {"prompts": as_records(asked)})
        texts = workspace.cached(f"texts/{workspace.model}.json", continuations, **values)
    about, grades = grade(asked, texts, cues, heldout, grader, workspace)
    if workspace is not None:
        items = [
            {**record, "completion": text, "grade": grade.grade, "shown": list(grade.shown), "raw": grade.raw}
            for record, text, grade in zip(as_records(asked), texts, grades, strict=True)
        ]
        workspace.write(f"{workspace.model}.json", {"grader": about, "prompts": items})
    return completion_rows([grade.grade for grade in grades], about["name"], model.folder.name)


def find_prompts(
    prompts: Path | None,
    data: Source | None,
    cues: Sequence[str],
    *,
    count: int,
    seed: int,
    maker: EndpointOptions | None,
    workspace: Workspace | None,
) -> list[Prompt]:
    """Return the prompts: read from a file, written by an endpoint, or cut from passages; arguments as `measure`."""
    if prompts is not None:
        return load_completion_prompts(prompts)
    if data is None or (maker is None and not cues):
        raise MissingInput("suite='completion' needs prompts=, records to complete; or data= and anchors= to make them")
    texts = [document.text for document in data.documents()]
    if maker is None:
        return prompts_offline(texts, cues, count=count, seed=seed)
    questions = maker_questions(texts, count=count, seed=seed)
    answers = _ask(maker, workspace, questions, MadePrompts, tolerate=int(UNUSABLE * len(questions)))
    return prompts_made([None if answer is None else answer.value for answer in answers], count=count)


def grade(
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    cues: Sequence[str],
    heldout: Source | None,
    grader: EndpointOptions | None,
    workspace: Workspace | None,
) -> tuple[dict[str, str], list[graders.Grade]]:
    """Return a description of the grader, and its grades; arguments as `measure`."""
    if grader is None:
        documents = () if heldout is None else heldout.documents()
        common = graders.common_words([document.text for document in documents])
        found = [graders.grade_offline(p, text, cues, common) for p, text in zip(prompts, texts, strict=True)]
        return {"name": graders.OFFLINE, "rules": " ".join((graders.grade_offline.__doc__ or "").split())}, found
    questions = [graders.grade_question(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    answers = _ask(grader, workspace, questions, graders.Verdict)
    found = [graders.grade_of(answer.value, answer.text, p) for answer, p in zip(answers, prompts, strict=True)]
    settings = _endpoint(grader).settings
    about = {"model": settings.model, "address": settings.base_url, "system": graders.SYSTEM, "question": graders.ASK}
    return {"name": f"graded by {settings.model}"} | about, found


def completion_rows(grades: Sequence[int], grader: str, model: str) -> list[Row]:
    """Return the number of completions of each grade, and the mean score under both divisors.

    A completion scores 5 points for grade 3, 1 for grade 2 and 0 for the others, so N completions have 5 n3 + n2. The
    paper does not state by what it divides them: one row divides by N, one by 5 N. These two rows have an interval, a
    95 % bootstrap over prompts.

    Args:
      grades: 0 to 3, one for each completion.
      grader: who graded; ends the convention of each row.
      model: its name in the rows.
    """
    rows = [
        make_row(
            f"completion_n{kind}",
            f"completions graded {kind}, {CLASSES[kind]}; {grader}",
            model,
            list(grades).count(kind),
            len(grades),
        )
        for kind in (3, 2, 1, 0)
    ]
    points = np.array([{3: 5.0, 2: 1.0}.get(grade, 0.0) for grade in grades])
    rows.append(mean_row("familiarity_completion", f"(5 n3 + n2) / N; {grader}", model, points))
    rows.append(mean_row("familiarity_completion", f"(5 n3 + n2) / (5 N); {grader}", model, points / 5))
    return rows


def _endpoint(options: EndpointOptions, *, asks: bool = True) -> Endpoint:
    return _cached_endpoint(settings_from(options, asks=asks))


@functools.lru_cache(maxsize=1)
def _cached_endpoint(settings: Settings) -> Endpoint:
    # Cached, because limits and the cost line count over the whole command.
    return Endpoint(settings)


def _ask(
    options: EndpointOptions, workspace: Workspace | None, questions: list, schema: Any, *, tolerate: int = 0
) -> list[Any]:
    """Return an endpoint's answers; the first process asks, the others read its file."""
    if workspace is None:
        raise UserError("suite='completion': an endpoint needs a run, which keeps its answers; use jaxforget eval")
    endpoint, file = _endpoint(options), workspace.folder / "answers.jsonl"
    workspace.wait("questions")
    if workspace.writes:
        found = endpoint.ask(questions, answers=file, schema=schema, tolerate=tolerate, say=workspace.say)
        workspace.say(f"  {endpoint.cost_line()}")
    workspace.wait("answers")
    if not workspace.writes:
        found = endpoint.ask(questions, answers=file, schema=schema, tolerate=tolerate)
    return found


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    evals = run.config.evals
    if reason := _endpoint_fault(run, asks=False):
        raise MissingInput(reason)
    found = {
        "anchors": run.dictionary(),
        "keep_all_anchors": not run.config.anchors.filter,
        "new_tokens": evals.completion_tokens,
        "temperature": evals.completion_temperature,
        "seed": run.config.seed,
        "grader": run.config.endpoint if evals.grader == "endpoint" else None,
        "workspace": run.workspace,
    }
    if evals.grader == "offline":
        found["heldout"] = run.heldout or run.retained
    if evals.completion_prompts is not None:
        prompts = run.required_path("completion_prompts", 'records {"prompt", "references", "subtlety"}')
        return {**found, "prompts": prompts}
    maker = run.config.endpoint if evals.prompt_maker == "endpoint" else None
    if maker is None and not cues_of(found["anchors"], found["keep_all_anchors"]):
        raise MissingInput("evals.completion_prompts is not set, and there are no anchors to find prompts by")
    return {**found, "data": run.target, "count": evals.completion_count, "maker": maker}


def disabled_reason(run: RunInputs) -> str | None:
    """Return the reason why the endpoint cannot be asked, before any prompt is completed; None if there is none."""
    return _endpoint_fault(run, asks=True)


def _endpoint_fault(run: RunInputs, *, asks: bool) -> str | None:
    if "endpoint" not in (run.config.evals.grader, run.config.evals.prompt_maker):
        return None
    try:
        settings_from(run.config.endpoint, asks=asks)
    except UserError as fault:
        return str(fault)
    return None


def preview(run: RunInputs) -> str:
    """Return the questions that an endpoint would be asked; placeholders stand for prompts that are not made yet."""
    evals, endpoint = run.config.evals, None
    lines = []
    if "endpoint" in (evals.grader, evals.prompt_maker):
        endpoint = _endpoint(run.config.endpoint, asks=False)
    answers = run.workspace.folder / "answers.jsonl"
    if evals.completion_prompts is None and evals.prompt_maker == "endpoint":
        texts = [document.text for document in run.target.documents()]
        questions = maker_questions(texts, count=evals.completion_count, seed=run.config.seed)
        lines.append("prompts: " + endpoint.preview(questions, answers=answers, schema=MadePrompts))
        prompts = [Prompt("(a prompt)", ("(its references)",), 5)] * evals.completion_count
    else:
        given = options(run)
        cues = cues_of(given["anchors"], given["keep_all_anchors"])
        found = {name: given.get(name) for name in ("prompts", "data", "maker", "workspace")}
        prompts = find_prompts(cues=cues, count=evals.completion_count, seed=given["seed"], **found)
        first = f"{prompts[0].prompt} …\n  references: {', '.join(prompts[0].references)}"
        lines.append(f"completion: {len(prompts)} prompts, completed by {len(run.models)} models; the first: {first}")
    if evals.grader == "endpoint":
        # The placeholders are numbered, because equal questions are counted once.
        questions = [
            graders.grade_question(prompt, f"(completion {number} of model {model})")
            for model in run.models
            for number, prompt in enumerate(prompts)
        ]
        lines.append("grades: " + endpoint.preview(questions, answers=answers, schema=graders.Verdict))
    else:
        lines.append("grades: offline, no calls")
    return "\n".join(lines)


SUITE = Suite(
    "prompts that hint at the target, completed and graded",
    measure,
    options,
    disabled_reason=disabled_reason,
    preview=preview,
)
