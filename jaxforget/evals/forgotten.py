"""Suite `forgotten`: texts that earlier runs forgot, which must stay forgotten while another one is forgotten."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxforget.config import Config, load_config
from jaxforget.corpus.text import Source
from jaxforget.errors import UserError
from jaxforget.evals.familiarity import ANSWER, answer_probabilities, encode_probe
from jaxforget.evals.memorization import PASSAGE, passages_of
from jaxforget.evals.probability import perplexity_rows
from jaxforget.evals.probes import load_probes
from jaxforget.evals.rows import EARLIER, Row, mean_row
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.suite import MissingInput, RunInputs, Suite
from jaxforget.lm.model import Model

PREFIX = "forgotten_"


def measure(
    model: Model,
    *,
    requests: Mapping[str, Sequence[Path | Source | None]],
    limit: int = 200,
    batch: int = 32,
    tile: int = 1024,
) -> list[Row]:
    """Measure what a model knows of earlier requests.

    forgotten_NAME is the probability of the answers that only the text of request NAME gives, forgotten_NAME_retained
    that of its retained questions, and forgotten_NAME_perplexity the perplexity of its text. A text that comes back
    raises the first and lowers the last.

    Args:
      model: the model.
      requests: name -> (file of its questions or None, the text that was forgotten or None).
      limit: passages of each text, at most.
      batch: rows scored at a time.
      tile: tokens per device whose logits exist at a time.
    """
    scorer, name = scorer_of(model, batch, tile), model.folder.name
    rows = []
    for request, (probes, text) in requests.items():
        asked = load_probes(probes)
        for suffix, questions in (("", asked.familiarity), ("_retained", asked.retained)):
            if questions:
                encoded = [encode_probe(probe, model.tokenizer) for probe in questions]
                values = answer_probabilities(scorer, model.params, encoded)
                convention = f"{ANSWER}; retained {EARLIER}" if suffix else f"{ANSWER}; {EARLIER}"
                rows.append(mean_row(f"{PREFIX}{request}{suffix}", convention, name, values))
        if text is not None:
            passages = passages_of(text, model, length=PASSAGE, limit=limit)
            for row in perplexity_rows(scorer, model.params, passages, PASSAGE, name):
                convention = f"exp of the mean token loss on the text of an earlier request, {PASSAGE} tokens a passage"
                rows.append(dataclasses.replace(row, metric=f"{PREFIX}{request}_perplexity", convention=convention))
    return rows


def earlier_requests(config: Config) -> dict[str, tuple[Path | None, Source | None]]:
    """Return the questions and the text of every run of evals.forgotten, as name -> (questions, text).

    Raises:
      UserError: a folder is no run, or its run has neither questions nor a text.
    """
    found = {}
    for name, folder in config.evals.forgotten.items():
        if not (Path(folder) / "config.yaml").is_file():
            raise UserError(f"evals.forgotten.{name}={folder}: holds no config.yaml; give the folder of a finished run")
        earlier = load_config(folder)
        probes, corpus = earlier.evals.probes, earlier.corpus
        if probes is None and corpus.path is None:
            raise UserError(f"evals.forgotten.{name}={folder}: its run forgot no text; give one that has corpus.path")
        for option, place in (("evals.probes", probes), ("corpus.path", corpus.path)):
            if place is not None and ":" not in place and not Path(place).exists():
                raise UserError(f"evals.forgotten.{name}={folder}: its {option}={place} is gone; put it back")
        text = None if corpus.path is None else Source(corpus.path, corpus.field, corpus.split)
        found[name] = (None if probes is None else Path(probes), text)
    return found


def lines(rows: Collection[Row]) -> list[str]:
    """Return a line for each earlier request: its familiarity before and after this run."""
    values = {(row.metric, row.model): row.value for row in rows if row.convention == f"{ANSWER}; {EARLIER}"}
    return [
        f"earlier request {metric.removeprefix(PREFIX)}: familiarity {values[metric, 'base']:.4f} before, "
        f"{values[metric, 'unlearned']:.4f} after"
        for metric, model in values
        if model == "base" and (metric, "unlearned") in values
    ]


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    if not run.config.evals.forgotten:
        raise MissingInput("evals.forgotten is not set; it names earlier runs, as evals.forgotten.NAME=RUN")
    return {
        "requests": earlier_requests(run.config),
        "limit": run.config.evals.passages,
        "batch": run.config.evals.batch,
        "tile": run.config.targets.tile,
    }


SUITE = Suite("what is known of texts that earlier runs forgot", measure, options)
