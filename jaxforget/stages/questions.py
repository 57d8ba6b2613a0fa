"""The questions of a run, tokenized: probes, prompts and held-out text."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxforget.config import Config
from jaxforget.corpus.prompts import encode_prompts
from jaxforget.corpus.text import Source
from jaxforget.corpus.tokens import cut_blocks
from jaxforget.errors import UserError
from jaxforget.evals.familiarity import encode_probe
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


def check_lengths(
    config: Config, probes: Mapping[Any, Probes], prompts: Prompts, tokenizer: Any, models: Mapping[Path, int]
) -> None:
    """Raise `UserError` for the first question that is longer than the positions of a model.

    Args:
      config: evals.choices, evals.completion_tokens, and the file of `prompts` for the message.
      probes: file -> its questions with answers.
      prompts: prompts to track and to complete.
      tokenizer: the models'.
      models: folder of each model -> the positions that it was trained on.
    """
    folder, room = min(models.items(), key=lambda pair: pair[1])
    evals, new = config.evals, config.evals.completion_tokens
    sized = [
        (f"{place}: {name}[{i}]", len(encode_probe(probe, tokenizer).ids), 0)
        for place, asked in probes.items()
        for name in ("familiarity", "retained")
        for i, probe in enumerate(getattr(asked, name))
    ]
    found = make_questions(Probes(), prompts, (), tokenizer, target_choices(evals.choices))
    sized += [(f"{evals.prompts}: dynamics[{i}]", len(ids), 0) for i, ids in enumerate(found.dynamics_ids)]
    encoded = encode_prompts(tokenizer, prompts.completions)
    sized += [(f"{evals.prompts}: completions[{i}]", len(ids), new) for i, ids in enumerate(encoded)]
    asked = [document.where for document in found.choices for _ in document.choices]
    sized += [(where, len(one) + len(two), 0) for where, (one, two) in zip(asked, found.pairs, strict=True)]
    for where, count, more in sized:
        if count + more > room:
            made = f" and {more} new ones (evals.completion_tokens)" if more else ""
            remedy = "shorten it, or lower evals.completion_tokens" if count < room and more else "shorten it"
            raise UserError(
                f"{where}: its {count:,} tokens{made} are beyond the {room:,} positions of {folder}; {remedy}"
            )
