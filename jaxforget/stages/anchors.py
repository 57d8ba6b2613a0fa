"""Stage `anchors`: read the dictionary from the user's file or find it in the text."""

import functools
import itertools
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxforget.anchors.asking import Expressions, choose_passages, find_by_asking, questions
from jaxforget.anchors.extract import Found, extract
from jaxforget.anchors.local_model import LocalModel
from jaxforget.anchors.models_judge import ModelsJudge
from jaxforget.anchors.review.edits import apply_verdicts, read_verdicts
from jaxforget.config import result_options
from jaxforget.corpus.dictionary import Anchors
from jaxforget.endpoint import Answer, Endpoint, settings_from
from jaxforget.endpoint.answers import Messages
from jaxforget.errors import UserError
from jaxforget.lm.model import load
from jaxforget.models.folders import resolve_folder
from jaxforget.processes import wait_for_all
from jaxforget.stages.hashes import describe_endpoint, hash_model, hash_tokenizer_files
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage
from jaxforget.train.metrics import duration

SHOWN = 8  # notes printed; the rest are in anchors.json
PROGRESS_SECONDS = 30.0  # between two lines of progress
# The options that each extractor uses. A dictionary of the user's own needs none of them.
COUNTING = ("anchors.language", "anchors.min_count", "anchors.most", "anchors.counterparts")
USED = {
    "models": (*COUNTING, "anchors.sample", "model.dtype", "model.base"),
    "statistics": COUNTING,
    "endpoint": ("anchors.calls",),
    "local": ("anchors.calls", "anchors.answer_tokens", "model.dtype"),
}


def needs(run: Run) -> Needs:
    """Return the inputs: the user's dictionary, or what its extractor reads."""
    config = run.config
    if run.extractor is None:
        return Needs(files={"anchors.path": run.dictionary}, unused=_unused(run, ("anchors.filter",)))
    unused = _unused(run, ("seed", "anchors.extractor", *USED[run.extractor]))
    texts, folders = {"corpus.path": run.target}, {}
    if run.extractor in ("models", "statistics"):
        texts["retain.path"] = run.retained
    if run.extractor == "local" and config.anchors.model is not None:
        folders["anchors.model"] = resolve_folder(config.anchors.model)
    if run.reinforces_first:
        folders["model.folder"] = run.base
    earlier = ("reinforce",) if run.reinforces_first else ()
    return Needs(
        earlier,
        brings=earlier,
        texts=texts,
        models=folders,
        tokenizers={f"tokenizer of {name}": folder for name, folder in folders.items()},
        values=describe_endpoint(config.endpoint) if run.extractor == "endpoint" else {},
        unused=unused,
    )


def _unused(run: Run, used: tuple[str, ...]) -> list[str]:
    options = result_options(run.config, "anchors")
    return [name for name in options if not {name, name.partition(".")[0]} & set(used)]


def anchors(run: Run) -> None:
    """Write anchors.json of the run: the user's dictionary after its filter, or the one found in the text."""
    if run.extractor is None:
        found = Anchors.load(run.dictionary, keep_all=not run.config.anchors.filter)
        notes = found.notes
    else:
        run.say(f"  anchors.path is not set: finding anchors in the text ({run.extractor})")
        extracted = find(run)
        found, notes = extracted.anchors, extracted.warnings
    verdicts = read_verdicts(run.review)
    if verdicts:
        found = apply_verdicts(found, verdicts)
        run.say(f"  {len(verdicts):,} decisions of {run.review.name} applied")
    if jax.process_index() == 0 and (former := _replace(run.anchors, found)):
        run.say(f"  the previous dictionary differs and is kept as {former.name}")
    for note in notes[:SHOWN]:
        run.say(f"  {'' if run.extractor is None else 'warning: '}{note}")
    dropped = f", {len(found.dropped)} dropped by the filter" if found.dropped else ""
    run.say(f"  {len(found.entries):,} anchors{dropped}")
    if run.extractor is not None:
        run.say(f"  review them: jaxforget anchors review {run.folder}")


def _replace(path: Path, found: Anchors) -> Path | None:
    """Write a dictionary. Return the path where a different earlier one, perhaps edited, is kept; else None."""
    if not path.is_file():
        found.save(path)
        return None
    former = next(name for n in itertools.count(1) if not (name := path.with_name(f"anchors.former-{n}.json")).exists())
    shutil.copyfile(path, former)
    found.save(path)
    if former.read_bytes() != path.read_bytes():
        return former
    former.unlink()
    return None


def preview(run: Run) -> str:
    """Return the number of calls to the endpoint, a rough cost and one prompt, without a call."""
    config = run.config
    asked = questions(choose_passages(list(run.target.documents()), config.anchors.calls, config.seed))
    endpoint = Endpoint(settings_from(config.endpoint, asks=False))
    return endpoint.preview(asked, answers=run.answers, schema=Expressions)


def find(run: Run) -> Found:
    """Return the dictionary that `anchors.extractor` finds; every process finds the same."""
    config = run.config
    options = config.anchors
    if run.extractor in ("endpoint", "local"):
        ask = functools.partial(_ask_endpoint if run.extractor == "endpoint" else _ask_local, run)
        documents = list(run.target.documents())
        return find_by_asking(documents, ask, calls=options.calls, seed=config.seed, answers=run.answers)
    return extract(
        run.target.documents,
        retained=None if run.retained is None else run.retained.documents(),
        language=options.language,
        least=options.min_count,
        most=options.most,
        each=options.counterparts,
        seed=config.seed,
        models=_judge(run) if run.reinforces_first else None,
        progress=_progress(run.say),
    )


def _progress(say: Callable[[str], None]) -> Callable[[int, int], None]:
    """Return a function that says how many of the expressions are read and the time that is left, twice a minute."""
    start = last = time.monotonic()

    def told(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= PROGRESS_SECONDS and done < total:
            last = now
            left = (now - start) / done * (total - done)
            say(f"  {done} of {total} expressions read by the models, {duration(left)} left")

    return told


def _judge(run: Run) -> ModelsJudge:
    """Load base and the reinforced model and score the text under both."""
    config = run.config
    dtype, attention = config.model.dtype, config.model.attention
    base = load(run.base, dtype, run.mesh, attention=attention, form=config.model.base)
    return ModelsJudge(
        base,
        load(run.reinforced, dtype, run.mesh, base=base).params,  # an adapter shares base's arrays
        run.target.documents(),
        batch=config.evals.batch,
        tile=config.targets.tile,
        length=config.blocks.length,
        sample=config.anchors.sample,
    )


def _ask_endpoint(run: Run, asked: Sequence[Messages], tolerate: int) -> list[Answer | None]:
    """Ask the endpoint from the first process; the other processes read its answers from their file."""
    endpoint = Endpoint(settings_from(run.config.endpoint))
    given: dict[str, Any] = {"answers": run.answers, "schema": Expressions, "tolerate": tolerate}
    if jax.process_index() == 0:
        found = endpoint.ask(asked, say=run.say, **given)
        run.say(f"  {endpoint.cost_line()}")
    wait_for_all("anchors: answers")
    return found if jax.process_index() == 0 else endpoint.ask(asked, **given)


def _ask_local(run: Run, asked: Sequence[Messages], tolerate: int) -> list[Answer | None]:
    """Ask the chat model `anchors.model`, loaded here."""
    config = run.config
    if config.anchors.model is None:
        raise UserError("anchors.model is not set; it names the chat model that anchors.extractor=local asks")
    folder = resolve_folder(config.anchors.model)
    model = load(folder, config.model.dtype, run.mesh, attention=config.model.attention)
    content = " ".join((hash_model(run, folder), hash_tokenizer_files(run, folder), config.model.dtype))
    local = LocalModel(model, content, batch=config.evals.batch, answer_tokens=config.anchors.answer_tokens)
    return local.ask(asked, answers=run.answers, schema=Expressions, tolerate=tolerate, say=run.say)


STAGE = Stage("anchors", needs, lambda run, _: anchors(run), lambda run: [run.anchors], editable=True)
