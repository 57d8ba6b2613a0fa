"""Suite `probability`: the probability of the answers to your own questions, and perplexity on held-out text."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.corpus.text import Source
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.evals.familiarity import ANSWER, FIRST_TOKEN, TOKEN_MEAN, answer_scores, encode_probe
from jaxforget.evals.intervals import bootstrap
from jaxforget.evals.probes import load_probes
from jaxforget.evals.rows import Row, make_row, mean_row
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.suite import MissingInput, RunInputs, Suite
from jaxforget.lm.model import Model
from jaxforget.lm.scoring import Scorer, perplexity
from jaxforget.train.types import Params

QUANTITIES = ("familiarity", "retained", "perplexity")
PERPLEXITY = "exp of the mean token loss on held-out text in blocks of {length} tokens"


def measure(
    model: Model,
    *,
    probes: Path | None = None,
    heldout: Source | None = None,
    length: int = 512,
    heldout_blocks: int = 256,
    batch: int = 32,
    tile: int = 1024,
) -> list[Row]:
    """Measure familiarity and retained knowledge by `probes`, and perplexity on `heldout`.

    The probability of the whole answer is `familiarity` (of `retained` questions: `retained`). Beside it stand the
    probability of the answer's first token and the mean over its tokens, under names and conventions of their own.

    Args:
      model: the model.
      probes: JSON {"familiarity": [{"prompt", "answer"}], "retained": [...]}.
      heldout: general text.
      length: tokens of a block of it; a token late in a long block is easier to predict.
      heldout_blocks: number of blocks at most.
      batch: rows scored at a time.
      tile: tokens per device whose logits exist at a time.

    Raises:
      UserError: neither `probes` nor `heldout` is given, or one of them is unfit.
    """
    if probes is None and heldout is None:
        raise MissingInput("nothing to measure: give probes=FILE with questions, heldout=TEXT for perplexity, or both")
    scorer, name = scorer_of(model, batch, tile), model.folder.name
    questions = load_probes(probes)
    rows = []
    for metric in ("familiarity", "retained"):
        if asked := [encode_probe(probe, model.tokenizer) for probe in getattr(questions, metric)]:
            scores = answer_scores(scorer, model.params, asked)
            rows.append(mean_row(metric, ANSWER, name, scores.answer))
            rows.append(mean_row(f"{metric}_first_token", FIRST_TOKEN, name, scores.first_token))
            rows.append(mean_row(f"{metric}_token_mean", TOKEN_MEAN, name, scores.token_mean))
    if heldout is not None:
        blocks = cut_blocks(heldout.documents(), model.tokenizer, length=length)[0][:heldout_blocks]
        rows += perplexity_rows(scorer, model.params, [block for block in blocks if len(block) > 1], length, name)
    return rows


def perplexity_rows(scorer: Scorer, params: Params, blocks: list[np.ndarray], length: int, model: str) -> list[Row]:
    """Return the row of perplexity over blocks of token ids, int [n] each; no row without blocks."""
    if not blocks:
        return []
    scores = scorer.log_probabilities(params, blocks)
    totals = np.array([(block.sum(dtype=np.float64), len(block)) for block in scores])  # [blocks, 2]
    interval = bootstrap(lambda drawn: np.exp(-drawn[:, 0].sum() / drawn[:, 1].sum()), [totals])
    convention = PERPLEXITY.format(length=length)
    return [make_row("perplexity", convention, model, perplexity(scores), len(scores), interval)]


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    config = run.config
    if config.evals.probes is None and run.heldout is None:
        raise MissingInput("neither evals.probes nor evals.heldout is set; they name questions and general text")
    return {
        "probes": None if config.evals.probes is None else Path(config.evals.probes),
        "heldout": run.heldout,
        "length": config.blocks.length,
        "heldout_blocks": config.evals.heldout_blocks,
        "batch": config.evals.batch,
        "tile": config.targets.tile,
    }


SUITE = Suite("evals.probes by probability, perplexity of evals.heldout", measure, options)
