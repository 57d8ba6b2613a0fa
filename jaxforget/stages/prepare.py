"""Stage `prepare`: the text as translated blocks."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from jaxforget.anchors.diagnosis import diagnose
from jaxforget.corpus.blocks import count_anchors, prepare_blocks
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document, read_documents
from jaxforget.corpus.translate import Translator
from jaxforget.errors import UserError
from jaxforget.files import write_json
from jaxforget.models.folders import read_config
from jaxforget.models.tokenizer import check_tokenizer, load_tokenizer
from jaxforget.stages.run import Run

SHOWN = 8


def cut(run: Run) -> None:
    """The target as blocks that nothing translates: the reinforced model is trained on them first."""
    tokenizer = _tokenizer(run)
    _describe(
        run, "target", prepare_blocks(run.reinforce_blocks, _target(run), tokenizer, **_settings(run, target=True))
    )


def prepare(run: Run) -> None:
    """Tokenises, cuts and translates the target (where the run has anchors) and the retained text."""
    config = run.config
    tokenizer = _tokenizer(run)
    translator = None
    if run.anchored:
        dictionary = read_dictionary(run)
        translator = Translator(dictionary, tokenizer, match=config.anchors.match, draw=config.anchors.draw)
    summary = prepare_blocks(run.blocks, _target(run), tokenizer, translator=translator, **_settings(run, target=True))
    _describe(run, "target", summary)
    if translator is not None:
        if not summary["anchors"]["occurrences"]:
            raise UserError(
                f"{config.anchors.path or run.anchors}: none of its anchors occurs in {config.corpus.path}; "
                "matching is case-sensitive"
            )
        run.say(f"  {summary['trained']:,} positions with a label")
        _diagnose(run, dictionary, tokenizer, translator, summary["anchors"])
        for note in summary["anchors"]["notes"][:SHOWN]:
            run.say(f"  {note}")
    if run.retain_blocks is not None:
        retained = read_documents(config.retain.path, field=config.retain.field, split=config.retain.split)
        _describe(run, "retain", prepare_blocks(run.retain_blocks, retained, tokenizer, retain=True, **_settings(run)))


def _diagnose(run: Run, dictionary: Anchors, tokenizer: Any, translator: Translator, found: dict[str, Any]) -> None:
    """Says what is doubtful in the dictionary, and keeps it in diagnosis.json."""
    retain = run.config.retain
    retained = None
    if retain.path is not None:
        text = read_documents(retain.path, field=retain.field, split=retain.split)
        retained = count_anchors(text, tokenizer, translator)
    diagnosis = diagnose(
        dictionary,
        tokenizer,
        found["counts"],
        coverage=found["coverage"],
        match=run.config.anchors.match,
        retained=retained,
    )
    write_json(run.folder / "diagnosis.json", dataclasses.asdict(diagnosis))
    for line in diagnosis.lines():
        run.say(f"  {line}")


def read_dictionary(run: Run) -> Anchors:
    """The run's dictionary as text is translated by it: filtered, unless anchors.filter is off."""
    return Anchors.load(run.anchors, keep_all=not run.config.anchors.filter)


def _tokenizer(run: Run) -> Any:
    """Base's tokenizer, which must fit base."""
    tokenizer = load_tokenizer(run.base)
    check_tokenizer(tokenizer, read_config(run.base)[0])
    return tokenizer


def _target(run: Run) -> Iterator[Document]:
    corpus = run.config.corpus
    return read_documents(run.corpus, field=corpus.field, split=corpus.split)


def _settings(run: Run, *, target: bool = False) -> dict[str, Any]:
    """How text is cut; of the target, some blocks are held out."""
    blocks = run.config.blocks
    holdout = blocks.holdout if target else 0.0
    return {"length": blocks.length, "mode": blocks.mode, "seed": run.config.seed, "holdout": holdout}


def _describe(run: Run, name: str, summary: dict) -> None:
    splits = summary["splits"]
    run.say(
        f"  {name}: {summary['documents']:,} documents, {summary['tokens']:,} tokens, {splits['train']:,} blocks"
        f" and {splits['validation']:,} held out"
    )
