"""The questions of a run, tokenized: probes, prompts and held-out text."""

from typing import Any

from jaxforget.config import Config
from jaxforget.corpus.text import Source
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.evals.multiple_choice import target_choices
from jaxforget.evals.probes import Probes, Prompts
from jaxforget.evals.watch import Questions, make_questions


def questions_of(config: Config, probes: Probes, prompts: Prompts, tokenizer: Any) -> Questions:
    """Return the probes, the prompts, the blocks of evals.heldout and the target's evals.choices, tokenized."""
    heldout = []
    if config.evals.heldout is not None:
        documents = Source(config.evals.heldout, config.corpus.field).documents()
        heldout = cut_blocks(documents, tokenizer, length=config.blocks.length)[0][: config.evals.heldout_blocks]
    return make_questions(probes, prompts, heldout, tokenizer, target_choices(config.evals.choices))
