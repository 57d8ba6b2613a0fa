"""Stage `prepare`: cut the text into blocks and translate them."""

import dataclasses
import os
import shutil
from typing import Any

import jax

from jaxforget.anchors.diagnosis import diagnose
from jaxforget.corpus.blocks import count_anchors, prepare_blocks
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.questions import read_alternates
from jaxforget.corpus.translate import Translator
from jaxforget.corpus.translations import Sampler
from jaxforget.errors import UserError
from jaxforget.files import atomic_folder, write_json
from jaxforget.models.folders import read_config
from jaxforget.models.tokenizer import check_ids, fit_tokenizer, load_tokenizer
from jaxforget.processes import wait_for_all
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage

SHOWN = 8  # notes printed
NAMED = 5  # missed anchors printed
SOURCE = ("corpus.field", "corpus.split")  # the text's own hash covers them


def needs(run: Run) -> Needs:
    """Return the inputs: the texts, base's tokenizer, and the dictionary where the run has one.

    The dictionary counts by its content: a review changes it after the stage that wrote it.
    """
    files = {"corpus.alternates": run.config.corpus.alternates}
    return Needs(
        after=("anchors",) if run.anchored else (),
        files={**files, "anchors.json": run.anchors} if run.anchored else files,
        texts={
            "corpus.path": run.target,
            "retain.path": run.retained if run.retain_blocks else None,
            "ilu.path": run.unrelated,
        },
        tokenizers={"tokenizer": run.base},
        values={"objective.translations": str(run.objective.translations)} if run.objective.translations else {},
        unused=(*SOURCE, "retain", "ilu") if run.anchored else (*SOURCE, "retain", "ilu", "anchors"),
    )


def text_needs(run: Run) -> Needs:
    """Return the inputs of blocks that nothing translates."""
    return Needs(
        texts={"corpus.path": run.target},
        tokenizers={"tokenizer": run.base},
        unused=(*SOURCE, "retain", "ilu", "anchors"),
    )


def cut(run: Run) -> None:
    """Write the target as untranslated blocks, for a reinforced model that is trained before the anchors are known."""
    tokenizer = _tokenizer(run)
    text, settings = run.target.documents(), _settings(run, target=True)
    _describe(run, "target", prepare_blocks(run.reinforce_blocks, text, tokenizer, **settings))


def prepare(run: Run) -> None:
    """Tokenise and cut the target and the retained text, and translate the target if the run has anchors."""
    config = run.config
    tokenizer = _tokenizer(run)
    translator = sampler = None
    if run.anchored:
        dictionary = read_dictionary(run)
        translator = Translator(dictionary, tokenizer, match=config.anchors.match, draw=config.anchors.draw)
        if count := run.objective.translations:
            sampler = Sampler(dictionary, tokenizer, count, match=config.anchors.match)
    text, settings = run.target.documents(), _settings(run, target=True)
    alternates = () if config.corpus.alternates is None else read_alternates(config.corpus.alternates)
    translating = {"translator": translator, "sampler": sampler}
    summary = prepare_blocks(run.blocks, text, tokenizer, alternates=alternates, **translating, **settings)
    _describe(run, "target", summary)
    if translator is not None:
        if not summary["anchors"]["occurrences"]:
            raise UserError(
                f"{config.anchors.path or run.anchors}: none of its anchors occurs in {config.corpus.path}; "
                "matching is case-sensitive"
            )
        missed = sum(summary["anchors"]["missed"].values())
        worst = ", ".join(f"{key} {count:,}" for key, count in [*summary["anchors"]["missed"].items()][:NAMED])
        run.say(
            f"  {summary['anchors']['occurrences']:,} occurrences of anchors found, {missed:,} missed"
            + (f" (cut by a block's end or tokenised differently): {worst}" if missed else "")
        )
        run.say(f"  {summary['trained']:,} positions with a label")
        if sampler is not None:
            run.say(f"  {sampler.count} translations of each block")
        _diagnose(run, dictionary, tokenizer, translator, summary["anchors"])
        for note in summary["anchors"]["notes"][:SHOWN]:
            run.say(f"  {note}")
    if run.retain_blocks is not None:
        retained = run.retained.documents()
        _describe(run, "retain", prepare_blocks(run.retain_blocks, retained, tokenizer, retain=True, **_settings(run)))
    if run.unrelated_blocks is not None:
        unrelated = run.unrelated.documents()
        _describe(run, "unrelated", prepare_blocks(run.unrelated_blocks, unrelated, tokenizer, **_settings(run)))


def _diagnose(run: Run, dictionary: Anchors, tokenizer: Any, translator: Translator, found: dict[str, Any]) -> None:
    """Print the findings about the dictionary and write them to diagnosis.json."""
    retained = None
    if run.retained is not None:
        retained = count_anchors(run.retained.documents(), tokenizer, translator)
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
    """Return the dictionary that translates the text: filtered, unless anchors.filter is off."""
    return Anchors.load(run.anchors, keep_all=not run.config.anchors.filter)


def lend_blocks(lender: Run, borrower: Run) -> None:
    """Give the blocks of a finished run to a new one, as links where the file system has them.

    The borrower's own stage still compares its inputs with those of the lender, and runs again where they differ.
    """
    entry = lender.manifest.stage("prepare")
    if jax.process_index() == 0 and entry is not None and borrower.manifest.stage("prepare") is None:
        with atomic_folder(borrower.folder / "blocks") as partial:
            shutil.copytree(lender.folder / "blocks", partial, copy_function=_link, dirs_exist_ok=True)
        borrower.manifest.record("prepare", entry["inputs"], entry["seconds"], options=entry["options"])
    wait_for_all(f"{borrower.folder}: blocks")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


def _tokenizer(run: Run) -> Any:
    """Return base's tokenizer after a check that it fits base."""
    tokenizer = load_tokenizer(run.base)
    fit_tokenizer(tokenizer, read_config(run.base)[0])
    return tokenizer


def _settings(run: Run, *, target: bool = False) -> dict[str, Any]:
    """Return the settings of `prepare_blocks`; only the target has held-out blocks."""
    blocks = run.config.blocks
    return {
        "length": blocks.length,
        "mode": blocks.mode,
        "seed": run.config.seed,
        "holdout": blocks.holdout if target else 0.0,
        "template": run.config.corpus.template,
    }


def _describe(run: Run, name: str, summary: dict) -> None:
    """Say how much text was prepared, and refuse text that base has no embedding for."""
    check_ids([[summary["highest_id"]]], read_config(run.base)[0].vocab_size)
    splits, length = summary["splits"], summary["length"]
    asks = summary["answer_tokens"]
    told = f"{summary['tokens']:,} tokens, {asks:,} of them of answers" if asks else f"{summary['tokens']:,} tokens"
    run.say(
        f"  {name}: {summary['documents']:,} {'questions' if asks else 'documents'}, {told}, {splits['train']:,} "
        f"{'rows' if asks else 'blocks'} and {splits['validation']:,} held out"
    )
    if summary["cut"]:
        run.say(f"  warning: {name}: {summary['cut']:,} answers are cut at blocks.length={length}")
    if asks and 2 * summary["longest"] <= length:
        run.say(
            f"  {name}: the longest row has {summary['longest']:,} tokens; a smaller blocks.length than {length} saves "
            "time"
        )


STAGE = Stage(
    "prepare",
    needs,
    lambda run, _: prepare(run),
    lambda run: [
        folder / "blocks.json" for folder in (run.blocks, run.retain_blocks, run.unrelated_blocks) if folder is not None
    ],
    together=False,
)
# Blocks that need no dictionary, for a reinforced model that is trained before the anchors are known.
TEXT = Stage(
    "text",
    text_needs,
    lambda run, _: cut(run),
    lambda run: [run.reinforce_blocks / "blocks.json"],
    options="prepare",
    together=False,
)
