"""Suite `completion`: familiarity by completion (WHP section 3) on every model of a run.

What a run asks and gets lies in evals/completion/: prompts.json (made once), texts/MODEL.json (completed once),
answers.jsonl (an endpoint's, as they come) and MODEL.json (every completion with its grade and the grader's own words).
"""

import functools
from pathlib import Path
from typing import Any

import jax

from jaxforget.config.schema import EndpointOptions
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Source
from jaxforget.endpoint import Endpoint, Settings, model_name, settings_from
from jaxforget.errors import UserError
from jaxforget.evals import graders
from jaxforget.evals.completion import (
    MAKER,
    MadePrompts,
    Prompt,
    as_records,
    completion_rows,
    load_completion_prompts,
    maker_questions,
    prompts_made,
    prompts_offline,
)
from jaxforget.files import write_json
from jaxforget.lm.completion import complete
from jaxforget.lm.model import Model
from jaxforget.stages.hashes import hash_data, hash_model, hash_source, hash_tokenizer_files
from jaxforget.stages.run import Run, wait_for_all
from jaxforget.stages.suites.attacks import cues_of
from jaxforget.stages.suites.suite import Models, Row, Suite, keep

UNUSABLE = 0.1  # of a prompt maker's answers, how many may be nonsense; a grader's none


def completion_folder(run: Run) -> Path:
    """Where the suite keeps what it asks and gets."""
    return run.evals / "completion"


def _lacks(run: Run) -> str | None:
    evals = run.config.evals
    if evals.completion_prompts is None and evals.prompt_maker == "offline" and not cues_of(run):
        return "evals.completion_prompts is not set, and there are no anchors to find prompts by"
    return _endpoint_fault(run, asks=False)


def _barred(run: Run) -> str | None:
    """What keeps the endpoint from being asked: told now, and not when every prompt has been completed."""
    return _endpoint_fault(run, asks=True)


def _endpoint_fault(run: Run, *, asks: bool) -> str | None:
    evals = run.config.evals
    if "endpoint" not in (evals.grader, evals.prompt_maker):
        return None
    try:
        settings_from(run.config.endpoint, asks=asks)
    except UserError as fault:
        return str(fault)
    return None


def _prompt_inputs(run: Run) -> dict[str, str]:
    config = run.config
    if config.evals.completion_prompts is not None:
        return {"evals.completion_prompts": hash_data(run, config.evals.completion_prompts)}
    made = {
        "corpus.path": hash_source(run, run.target),
        "evals.prompt_maker": config.evals.prompt_maker,
        "evals.completion_count": str(config.evals.completion_count),
        "seed": str(config.seed),
    }
    if config.evals.prompt_maker == "offline":
        return made | {"anchors": hash_data(run, str(run.anchors))}
    return made | {"endpoint.model": model_name(config.endpoint), "asked": MAKER}


def _text_inputs(run: Run) -> dict[str, str]:
    evals = run.config.evals
    names = ("completion_tokens", "completion_temperature")
    return {**_prompt_inputs(run), **{f"evals.{name}": str(getattr(evals, name)) for name in names}}


def _inputs(run: Run) -> dict[str, str]:
    config = run.config
    graded = {"evals.grader": config.evals.grader}
    if config.evals.grader == "offline":
        general = _general(run)
        graded["anchors"] = hash_data(run, str(run.anchors))
        graded["general text"] = "" if general is None else hash_source(run, general)
    else:
        graded["endpoint.model"] = model_name(config.endpoint)
        graded["asked"] = graders.SYSTEM + graders.ASK
    return {**_text_inputs(run), **graded}


def _endpoint(options: EndpointOptions, *, asks: bool = True) -> Endpoint:
    return _kept_endpoint(settings_from(options, asks=asks))


@functools.lru_cache(maxsize=1)
def _kept_endpoint(settings: Settings) -> Endpoint:
    # Kept, so that limits and the cost line are of the whole command.
    return Endpoint(settings)


def _ask(run: Run, questions: list[list[dict[str, str]]], schema: Any, *, tolerate: int = 0) -> list[Any]:
    """An endpoint's answers, asked by the first process and read from their file by the others."""
    endpoint, file = _endpoint(run.config.endpoint), completion_folder(run) / "answers.jsonl"
    wait_for_all("questions")
    if jax.process_index() == 0:
        found = endpoint.ask(questions, answers=file, schema=schema, tolerate=tolerate, say=run.say)
        run.say(f"  {endpoint.cost_line()}")
    wait_for_all("answers")
    if jax.process_index():
        found = endpoint.ask(questions, answers=file, schema=schema, tolerate=tolerate)
    return found


def _target(run: Run) -> list[str]:
    return [document.text for document in run.target.documents()]


def _general(run: Run) -> Source | None:
    """Return the general text whose words are not unique to the target, or None."""
    return run.heldout or run.retained


def prompts_of(run: Run) -> list[Prompt]:
    """The prompts of the run: the user's, or made once from the target."""
    evals = run.config.evals
    if evals.completion_prompts is not None:
        return load_completion_prompts(evals.completion_prompts)

    def make() -> list[dict[str, Any]]:
        if evals.prompt_maker == "offline":
            made = prompts_offline(_target(run), cues_of(run), count=evals.completion_count, seed=run.config.seed)
        else:
            questions = maker_questions(_target(run), count=evals.completion_count, seed=run.config.seed)
            answers = _ask(run, questions, MadePrompts, tolerate=int(UNUSABLE * len(questions)))
            made = prompts_made(
                [None if answer is None else answer.value for answer in answers], count=evals.completion_count
            )
        return as_records(made)

    records = keep(completion_folder(run) / "prompts.json", _prompt_inputs(run), "prompts", make)
    return [Prompt(item["prompt"], tuple(item["references"]), item["subtlety"]) for item in records]


def _texts(run: Run, models: Models, name: str, prompts: list[Prompt]) -> list[str]:
    config, folder = run.config, models.folders[name]
    depends = {
        **_text_inputs(run),
        "model": hash_model(run, folder),
        "tokenizer": hash_tokenizer_files(run, folder),
        "model.dtype": config.model.dtype,
        "seed": str(config.seed),
    }

    def make() -> list[str]:
        model, evals = models[name], config.evals
        return complete(
            model,
            [prompt.prompt for prompt in prompts],
            evals.completion_tokens,
            temperature=evals.completion_temperature,
            seed=config.seed,
        )

    return keep(completion_folder(run) / "texts" / f"{name}.json", depends, "texts", make)


def _grade(run: Run, prompts: list[Prompt], texts: list[str]) -> tuple[dict[str, str], list[graders.Grade]]:
    """Who graded, and the grades."""
    config = run.config
    if config.evals.grader == "offline":
        common = _common(_general(run))
        anchors = cues_of(run)
        found = [
            graders.grade_offline(prompt, text, anchors, common) for prompt, text in zip(prompts, texts, strict=True)
        ]
        return {"name": graders.OFFLINE, "rules": " ".join((graders.grade_offline.__doc__ or "").split())}, found
    questions = [graders.grade_question(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]
    answers = _ask(run, questions, graders.Verdict)
    found = [
        graders.grade_of(answer.value, answer.text, prompt) for answer, prompt in zip(answers, prompts, strict=True)
    ]
    settings = _endpoint(config.endpoint).settings
    about = {"model": settings.model, "address": settings.base_url, "system": graders.SYSTEM, "question": graders.ASK}
    return {"name": f"graded by {settings.model}"} | about, found


def complete_and_grade(
    model: Model,
    *,
    prompts: str | Path | None = None,
    data: str | Path | None = None,
    anchors: str | Path | None = None,
    heldout: str | Path | None = None,
    count: int = 300,
    new_tokens: int = 48,
    temperature: float = 0.0,
    field: str = "text",
    seed: int = 0,
) -> list[Row]:
    """Familiarity by completion, graded offline; a run's suite `completion` can have an endpoint grade.

    Args:
      prompts: records {"prompt", "references", "subtlety"}; or
      data: the target's text, from which `count` prompts are made by its `anchors`.
      anchors: the dictionary; its keys count as knowledge too.
      heldout: general text, whose words in small letters are not unique to the target.
    """
    cues = [] if anchors is None else list(Anchors.load(anchors).entries)
    if prompts is not None:
        asked = load_completion_prompts(prompts)
    elif data is None or not cues:
        raise UserError("suite='completion' needs prompts=, records to complete; or data= and anchors= to make them")
    else:
        texts = [document.text for document in Source(data, field).documents()]
        asked = prompts_offline(texts, cues, count=count, seed=seed)
    common = _common(None if heldout is None else Source(heldout, field))
    texts = complete(model, [prompt.prompt for prompt in asked], new_tokens, temperature=temperature, seed=seed)
    grades = [graders.grade_offline(p, text, cues, common).grade for p, text in zip(asked, texts, strict=True)]
    return completion_rows(grades, graders.OFFLINE, model.folder.name)


def _common(source: Source | None) -> set[str]:
    documents = () if source is None else source.documents()
    return graders.common_words([document.text for document in documents])


def _measure(run: Run, models: Models, name: str) -> list[Row]:
    prompts = prompts_of(run)
    texts = _texts(run, models, name, prompts)
    grader, grades = _grade(run, prompts, texts)
    told = [
        {**record, "completion": text, "grade": grade.grade, "shown": list(grade.shown), "raw": grade.raw}
        for record, text, grade in zip(as_records(prompts), texts, grades, strict=True)
    ]
    if jax.process_index() == 0:
        write_json(_result(run, name), {"grader": grader, "prompts": told})
    return completion_rows([grade.grade for grade in grades], grader["name"], name)


def _result(run: Run, name: str) -> Path:
    return completion_folder(run) / f"{name}.json"


def _preview(run: Run, models: Models) -> str:
    """What an endpoint would be asked; a prompt and a completion that are not made yet are stood in for."""
    evals, endpoint = run.config.evals, None
    lines = []
    if "endpoint" in (evals.grader, evals.prompt_maker):
        endpoint = _endpoint(run.config.endpoint, asks=False)
    answers = completion_folder(run) / "answers.jsonl"
    asked = len(models)
    if evals.completion_prompts is None and evals.prompt_maker == "endpoint":
        questions = maker_questions(_target(run), count=evals.completion_count, seed=run.config.seed)
        lines.append("prompts: " + endpoint.preview(questions, answers=answers, schema=MadePrompts))
        prompts = [Prompt("(a prompt)", ("(its references)",), 5)] * evals.completion_count
    else:
        prompts = prompts_of(run)
        first = f"{prompts[0].prompt} …\n  references: {', '.join(prompts[0].references)}"
        lines.append(f"completion: {len(prompts)} prompts, completed by {asked} models; the first: {first}")
    if evals.grader == "endpoint":
        # Numbered, so that stand-ins are counted one by one.
        questions = [
            graders.grade_question(prompt, f"(completion {number} of model {model})")
            for model in models
            for number, prompt in enumerate(prompts)
        ]
        lines.append("grades: " + endpoint.preview(questions, answers=answers, schema=graders.Verdict))
    else:
        lines.append("grades: offline, no calls")
    return "\n".join(lines)


COMPLETION = Suite(
    "completion",
    "prompts that hint at the target, completed and graded",
    _lacks,
    _inputs,
    _measure,
    leaves=lambda run, name: [_result(run, name)],
    barred=_barred,
    preview=_preview,
)
