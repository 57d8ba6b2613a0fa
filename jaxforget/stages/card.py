"""Model cards of exported weights."""

from jaxforget.config import Config
from jaxforget.stages.build import make_objective, make_retain

LIMITS = """A model that no longer says a thing may still hold it. Fine-tuning on a little related text, other
languages, cues in the prompt, quantisation and soft prompts have all been seen to bring back what approximate
unlearning removed. Read the run's evidence against a control before relying on this model's ignorance."""


def what_trains(config: Config, stage: str) -> str:
    """What a training stage ("reinforce" or "forget") trains, in words."""
    if getattr(config, stage).weights != "lora":
        return "every parameter"
    base = f"{config.model.base} base" if config.model.base != "full" else "base"
    return f"LoRA of rank {config.lora.rank} and alpha {config.lora.alpha:g} over {base}"


def plain_card(what: str, base: str | None) -> str:
    """Return the Markdown card of a model that nothing was unlearned from.

    Args:
      what: title of the card.
      base: what the model was made from.
    """
    return f"""---
library_name: transformers
tags: [jaxforget]
---
# {what}

Written by jaxforget from {base}.
"""


def model_card(config: Config, what: str) -> str:
    """Markdown for an unlearned model's README.md: where it came from, by which recipe, its limits."""
    forget, retain = config.forget, config.retain
    term = make_retain(config)
    kept = f"{term.describe()}, on {retain.path}" if term else "no retain term"
    return f"""---
library_name: transformers
tags: [unlearning, jaxforget]
---
# {what}

Made by jaxforget, after "Who's Harry Potter? Approximate Unlearning in LLMs" (arXiv 2310.02238).

| | |
|---|---|
| base | {config.model.folder} |
| text to forget | {config.corpus.path} |
| anchors | {config.anchors.path or f"found in the text ({config.anchors.extractor})"} |
| objective | {make_objective(config).describe()} |
| unlearning | learning rate {forget.learning_rate}, {forget.batch} blocks of {config.blocks.length} tokens a step |
| what trained | {what_trains(config, "forget")} |
| retained | {kept} |

## Limits

{LIMITS}
"""
