"""Stage `anchors`: the dictionary, read from the user's file or found in the text."""

import jax

from jaxforget.anchors.offline import Found, extract
from jaxforget.anchors.review.edits import apply_verdicts, read_verdicts
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document
from jaxforget.stages.anchors_asked import find_by_asking
from jaxforget.stages.anchors_asked import preview as preview_asking
from jaxforget.stages.anchors_judged import ModelsJudge
from jaxforget.stages.run import Run

SHOWN = 8


def anchors(run: Run) -> None:
    """Writes the run's anchors.json: anchors.path filtered as the authors' script does, or what the text gives."""
    if run.finder is None:
        found = Anchors.load(run.dictionary, keep_all=not run.config.anchors.filter)
        notes = found.notes
    else:
        run.say(f"  anchors.path is not set: finding anchors in the text ({run.finder})")
        extracted = find(run)
        found, notes = extracted.anchors, extracted.warnings
    verdicts = read_verdicts(run.review)
    if verdicts:
        found = apply_verdicts(found, verdicts)
        run.say(f"  {len(verdicts):,} decisions of {run.review.name} hold")
    if jax.process_index() == 0:
        found.save(run.anchors)
    for note in notes[:SHOWN]:
        run.say(f"  {'' if run.finder is None else 'warning: '}{note}")
    dropped = f", {len(found.dropped)} dropped by the filter" if found.dropped else ""
    run.say(f"  {len(found.entries):,} anchors{dropped}")
    if run.finder is not None:
        run.say(f"  review them: jaxforget anchors review {run.folder}")


def preview(run: Run) -> str:
    """What an endpoint would be asked."""
    return preview_asking(run, _read(run))


def _read(run: Run) -> list[Document]:
    return list(run.target.documents())


def find(run: Run) -> Found:
    """What is found by `anchors.extractor`; every process finds the same."""
    config = run.config
    options = config.anchors
    if run.finder in ("endpoint", "local"):
        return find_by_asking(run, _read(run))
    return extract(
        lambda: _read(run),
        retained=None if run.retained is None else run.retained.documents(),
        language=options.language,
        least=options.min_count,
        most=options.most,
        each=options.counterparts,
        seed=config.seed,
        models=ModelsJudge(run, _read(run)) if run.reinforces_first else None,
    )
