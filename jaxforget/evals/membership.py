"""Suite `membership`: membership inference, which tells the target from text that no model read."""

import dataclasses
import hashlib
from typing import Any

from jaxforget.corpus.text import Source
from jaxforget.evals.memorization import AUC_CONVENTION, PASSAGE, attack_scores, auc_rows, passages_of
from jaxforget.evals.rows import Row
from jaxforget.evals.suite import RunInputs, Suite
from jaxforget.lm.model import Model

REFERENCE = f"{AUC_CONVENTION}; mean token log-probability minus that of a reference model"


def measure(
    model: Model,
    *,
    data: Source,
    nonmembers: Source,
    reference: Model | None = None,
    length: int = PASSAGE,
    limit: int = 200,
    share: float = 0.4,
) -> list[Row]:
    """Measure the AUC of each attack, as auc_loss, auc_zlib, auc_min_k, auc_min_k_plus_plus and auc_reference.

    auc_reference subtracts the reference model's mean token log-probability (Carlini et al., 2112.03570), so that what
    makes a passage easy for every model does not count. It is left out where the reference model's tokenizer cuts the
    texts into other passages.

    Args:
      model: the model.
      data: the text to forget.
      nonmembers: text of its kind that no model read.
      reference: a model that never read the target; None omits auc_reference.
      length: tokens of a passage.
      limit: passages of each text, at most.
      share: the share of the tokens that Min-K takes.
    """
    passages = [passages_of(source, model, length=length, limit=limit) for source in (data, nonmembers)]
    scores = [attack_scores(model, texts, share) for texts in passages]
    # A model with other tokens reads other passages, which are not compared with the control's one by one.
    items_of = hashlib.sha256(repr(passages[0]).encode()).hexdigest()[:16]
    rows = auc_rows(*scores, model.folder.name)
    sources = (data, nonmembers)
    if reference is not None and passages == [passages_of(s, reference, length=length, limit=limit) for s in sources]:
        known = [attack_scores(reference, texts)["loss"] for texts in passages]
        ratios = [{"reference": own["loss"] - other} for own, other in zip(scores, known, strict=True)]
        rows += [dataclasses.replace(row, convention=REFERENCE) for row in auc_rows(*ratios, model.folder.name)]
    return [dataclasses.replace(row, items_of=items_of) for row in rows]


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    place = run.required_source("nonmembers", "text of the target's kind that no model read")
    return {**run.passages(PASSAGE), "nonmembers": place, "reference": run.reference("control")}


SUITE = Suite("membership inference between the target and text that no model read", measure, options)
