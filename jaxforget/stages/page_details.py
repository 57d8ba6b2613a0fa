"""Details that only the page shows: every question's answer under each model, and every token of a passage."""

from typing import Any

import numpy as np

from jaxforget.evals.familiarity import encode_probe
from jaxforget.evals.probes import Probes
from jaxforget.evals.scorers import scorer_of
from jaxforget.lm.model import Model
from jaxforget.lm.scoring import Scorer
from jaxforget.stages.run import Run

PASSAGE_MODELS = ("base", "unlearned", "control")


def questions_of_page(probes: Probes) -> list[dict[str, Any]]:
    """Return every probe as a record of evals/questions.json, without probabilities yet."""
    kinds = {"familiarity": probes.familiarity, "retained": probes.retained}
    return [
        {"kind": kind, "prompt": probe.prompt, "answer": probe.answer, "probability": {}}
        for kind, found in kinds.items()
        for probe in found
    ]


def add_answers(run: Run, model: Model, name: str, probes: Probes, questions: list[dict[str, Any]]) -> None:
    """Add the probability of every whole answer under one model: the product of its tokens' probabilities.

    Args:
      questions: from `questions_of_page(probes)`; changed in place.
    """
    asked = [encode_probe(probe, model.tokenizer) for probe in (*probes.familiarity, *probes.retained)]
    scores = _scorer(run, model).log_probabilities(model.params, [probe.ids for probe in asked]) if asked else []
    for question, probe, row in zip(questions, asked, scores, strict=True):
        question["probability"][name] = float(np.exp(row[probe.start - 1 :].sum(dtype=np.float64)))


def add_token_probabilities(run: Run, model: Model, name: str, tokens: list[dict[str, Any]]) -> None:
    """Add the probability of every token of a passage, given those before it, under one model.

    A model with another vocabulary is left out, because its tokens are not the passage's.

    Args:
      tokens: those of evals/passage.json; changed in place.
    """
    vocabulary = model.tokenizer.get_vocab()
    if any(token["text"] not in vocabulary for token in tokens):
        return
    ids = [vocabulary[token["text"]] for token in tokens]
    (scores,) = _scorer(run, model).log_probabilities(model.params, [ids])
    for token, score in zip(tokens[1:], scores, strict=True):
        token.setdefault("probability", {})[name] = round(float(np.exp(score)), 6)


def _scorer(run: Run, model: Model) -> Scorer:
    return scorer_of(model, run.config.evals.batch, run.config.targets.tile)
