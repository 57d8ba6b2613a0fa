"""Suite `audit`: the words of the target that a model still predicts, and the passages to read."""

from pathlib import Path

import jax
import numpy as np

from jaxforget.corpus.anchors import Anchors
from jaxforget.corpus.translate import Translator, block_rng
from jaxforget.evals.audit import audit, audit_rows, cut_words, first_anchors, ranked, word_probabilities
from jaxforget.files import write_json
from jaxforget.stages.evidence import Models, Row, Suite
from jaxforget.stages.hashes import hash_data, hash_text
from jaxforget.stages.run import Run
from jaxforget.stages.suites import passages_of, scorer

PASSAGE = 128  # tokens at most


def audit_file(run: Run, name: str) -> Path:
    """The words and passages of a model, worst first."""
    return run.evals / "audit" / f"{name}.json"


def _inputs(run: Run) -> dict[str, str]:
    config = run.config
    against = {} if run.control is not None else {"anchors": hash_data(run, str(run.anchors))}
    return {
        "corpus.path": hash_text(run, run.corpus),
        "corpus.field": config.corpus.field,
        "evals.passages": repr(config.evals.passages),
        "blocks.length": repr(config.blocks.length),
        **against,
    }


def _lacks(run: Run) -> str | None:
    if run.control is None and not run.anchors.is_file():
        return "model.control is not set, and there are no anchors to tell the target's words by"
    return None


def _measure(run: Run, models: Models, name: str) -> list[Row]:
    config, model = run.config, models[name]
    control = "control" in models
    if name == ("control" if control else "base"):
        return []
    length = min(PASSAGE, config.blocks.length)
    ids = passages_of(run.corpus, model, length=length, limit=config.evals.passages, field=config.corpus.field)
    passages = [cut_words(passage, model.tokenizer.convert_ids_to_tokens(list(passage))) for passage in ids]
    mine = word_probabilities(scorer(model), model.params, passages)
    other = models["control" if control else "base"]
    if other.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        run.say(f"  {name}: audit: left out: its tokens are not those of {other.folder}")
        return []
    reference = word_probabilities(scorer(other), other.params, passages)
    watched = None
    if not control:
        anchors = Anchors.load(run.anchors, keep_all=True)
        translator = Translator(anchors, model.tokenizer, match=config.anchors.match)
        spans = [translator.translate(np.array(passage.ids), block_rng(0, 0)).spans for passage in passages]
        watched = [first_anchors(passage, found) for passage, found in zip(passages, spans, strict=True)]
    found = audit(passages, mine, reference, watched)
    if jax.process_index() == 0:

        def spell(ids: list[int]) -> str:
            return model.tokenizer.convert_tokens_to_string(model.tokenizer.convert_ids_to_tokens(list(ids)))

        write_json(audit_file(run, name), {"model": name, **ranked(found, spell, control=control)})
    return audit_rows(found, control=control, model=name)


AUDIT = Suite(
    "audit",
    "words of the target predicted better than by the control, or without one nearly as well as by base",
    _lacks,
    _inputs,
    _measure,
    against=("control", "base"),
)
