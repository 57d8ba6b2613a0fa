"""Stage `anchors`: the dictionary, read from the user's file or found in the text."""

import jax

from jaxforget.corpus.anchors import Anchors
from jaxforget.corpus.extract.offline import Found, extract
from jaxforget.corpus.text import Document, read_documents
from jaxforget.stages.judge import ModelsJudge
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
    if jax.process_index() == 0:
        found.save(run.anchors)
    for note in notes[:SHOWN]:
        run.say(f"  {'' if run.finder is None else 'warning: '}{note}")
    dropped = f", {len(found.dropped)} dropped by the filter" if found.dropped else ""
    run.say(f"  {len(found.entries):,} anchors{dropped}")
    if run.finder is not None:
        run.say(f"  review them: jaxforget anchors review {run.folder}")


def find(run: Run) -> Found:
    """What is found by `anchors.extractor`; every process finds the same."""
    config = run.config
    options = config.anchors

    def read() -> list[Document]:
        corpus = config.corpus
        return list(read_documents(run.corpus, field=corpus.field, split=corpus.split))

    retain = config.retain
    retained = None if retain.path is None else read_documents(retain.path, field=retain.field, split=retain.split)
    return extract(
        read,
        retained=retained,
        language=options.language,
        least=options.min_count,
        most=options.most,
        each=options.counterparts,
        seed=config.seed,
        models=ModelsJudge(run, read()) if run.reinforces_first else None,
    )
