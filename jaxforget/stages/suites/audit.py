"""Suite `audit`: the words of the target that a model still predicts, and the passages to read."""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Source
from jaxforget.corpus.translate import Translator, block_rng
from jaxforget.errors import UserError
from jaxforget.evals.audit import (
    Audited,
    audit,
    audit_rows,
    cut_words,
    first_anchors,
    ranked,
    word_probabilities,
)
from jaxforget.evals.memorization import PASSAGE
from jaxforget.files import write_json
from jaxforget.lm.model import Model
from jaxforget.stages.hashes import hash_data, hash_source
from jaxforget.stages.prepare import read_dictionary
from jaxforget.stages.run import Run
from jaxforget.stages.suites.loaded import passages_of, scorer
from jaxforget.stages.suites.suite import Models, Row, Suite

BLANKS = ("Ġ", "▁")


def audit_file(run: Run, name: str) -> Path:
    """The words and passages of a model, worst first."""
    return run.evals / "audit" / f"{name}.json"


def _inputs(run: Run) -> dict[str, str]:
    config = run.config
    against = {} if run.control is not None else {"anchors": hash_data(run, str(run.anchors))}
    return {
        "corpus.path": hash_source(run, run.target),
        "evals.passages": repr(config.evals.passages),
        "blocks.length": repr(config.blocks.length),
        **against,
    }


def _lacks(run: Run) -> str | None:
    if run.control is None and not run.anchors.is_file():
        return "model.control is not set, and there are no anchors to tell the target's words by"
    return None


def read_target(
    model: Model, reference: Model, ids: Sequence[Sequence[int]], translator: Translator | None
) -> list[Audited]:
    """Passages (token ids) under a model and what it is read against.

    `translator` None: that is a control, and every word is watched; else base, and its anchors' first places are.

    Raises:
      UserError: the two models have different tokens.
    """
    if reference.tokenizer.get_vocab() != model.tokenizer.get_vocab():
        raise UserError(f"{model.folder}: its tokens are not those of {reference.folder}, so no word can be compared")
    passages = [cut_words(passage, model.tokenizer.convert_ids_to_tokens(list(passage))) for passage in ids]
    mine = word_probabilities(scorer(model), model.params, passages)
    other = word_probabilities(scorer(reference), reference.params, passages)
    if translator is None:
        return audit(passages, mine, other)
    spans = [translator.translate(np.array(passage.ids), block_rng(0, 0)).spans for passage in passages]
    watched = [first_anchors(passage, found) for passage, found in zip(passages, spans, strict=True)]
    return audit(passages, mine, other, watched)


def _measure(run: Run, models: Models, name: str) -> list[Row]:
    config, model = run.config, models[name]
    control = "control" in models
    if name == ("control" if control else "base"):
        return []
    length = min(PASSAGE, config.blocks.length)
    ids = passages_of(run.target, model, length=length, limit=config.evals.passages)
    translator = None
    if not control:
        translator = Translator(read_dictionary(run), model.tokenizer, match=config.anchors.match)
    try:
        found = read_target(model, models["control" if control else "base"], ids, translator)
    except UserError as fault:
        # Of a model to compare with; it must not end the others' evaluation.
        run.say(f"  {name}: audit: left out: {fault}")
        return []
    if jax.process_index() == 0:

        def spell(ids: Sequence[int]) -> str:
            pieces = model.tokenizer.convert_ids_to_tokens(list(ids))
            text = model.tokenizer.convert_tokens_to_string(pieces)
            # Some tokenizers leave out the blank before the first word of what they spell.
            return f" {text}" if pieces[0].startswith(BLANKS) and not text[:1].isspace() else text

        write_json(audit_file(run, name), {"model": name, **ranked(found, spell, control=control)})
    return audit_rows(found, control=control, model=name)


def audit_model(
    model: Model,
    data: str | Path,
    *,
    control: Model | None = None,
    base: Model | None = None,
    anchors: str | Path | None = None,
    length: int = PASSAGE,
    limit: int = 200,
    field: str = "text",
) -> list[Row]:
    """The audit of the text in `data`: against `control`, or without one against `base` at the places of `anchors`.

    Args:
      length: tokens of a passage. limit: passages at most. field: of .jsonl records.
    """
    if control is None and (base is None or anchors is None):
        raise UserError("suite='audit' needs control=, a model that never read the text; or base= and anchors=")
    ids = passages_of(Source(data, field), model, length=length, limit=limit)
    translator = None if control is not None else Translator(Anchors.load(anchors), model.tokenizer)
    found = read_target(model, base if control is None else control, ids, translator)
    return audit_rows(found, control=control is not None, model=model.folder.name)


AUDIT = Suite(
    "audit",
    "words of the target predicted better than by the control, or without one nearly as well as by base",
    _lacks,
    _inputs,
    _measure,
    against=("control", "base"),
)
