"""Model cards of exported weights."""

from collections.abc import Collection

from jaxforget.config import Config
from jaxforget.evals.rows import Row
from jaxforget.report.artefacts import QUANTITIES, model_order, read_manifest, read_summary
from jaxforget.report.sections import outdated
from jaxforget.report.verdict import chosen, judge
from jaxforget.stages.build import make_objective, make_retain, make_wrappers
from jaxforget.stages.run import Run

LIMITS = """A model that no longer says a thing may still hold it. Fine-tuning on a little related text, other
languages, cues in the prompt, quantisation and soft prompts have all been seen to bring back what approximate
unlearning removed. Read the run's evidence against a control before relying on this model's ignorance."""
# (stage, input) of the data that the result depends on; their fingerprints stand in the run's manifest.
FINGERPRINTS = (
    ("prepare", "corpus.path"),
    ("prepare", "retain.path"),
    ("prepare", "anchors.json"),
    ("prepare", "tokenizer"),
    ("forget", "model.folder"),
)


def what_trains(config: Config, stage: str) -> str:
    """Return what a training stage trains, in words."""
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


def evidence_of(run: Run) -> str:
    """Return Markdown: the verdict, the figures that it rests on, and fingerprints of the data; for a run's export."""
    manifest = read_manifest(run.folder) or {}
    summary = read_summary(run.folder)
    if summary is None or outdated(manifest):
        found = "This model was not measured when it was exported.\n"
    else:
        verdict = judge(summary)
        found = f"**{verdict.word}**: {verdict.sentence}\n\n{_figures(summary)}"
    prints = [
        f"| {name} | `{inputs[name][:16]}` |"
        for stage, name in FINGERPRINTS
        if name in (inputs := (manifest.get("stages", {}).get(stage) or {}).get("inputs", {}))
    ]
    data = "| | SHA-256 begins |\n|---|---|\n" + "\n".join(prints) + "\n" if prints else "Unknown.\n"
    return f"## Evidence\n\n{found}\n## Data\n\n{data}"


def _figures(summary: Collection[Row]) -> str:
    """Return the table of the three quantities: a line a quantity, a column a model."""
    lines = []
    measured = {quantity: chosen(summary, quantity) for quantity in QUANTITIES}
    models = model_order(model for _, values in measured.values() for model in values)
    for quantity, (convention, values) in measured.items():
        if values:
            cells = " | ".join(f"{values[model]:.4g}" if model in values else "" for model in models)
            lines.append(f"| {quantity} ({convention}) | {cells} |")
    head = f"| | {' | '.join(models)} |\n|---|{'---|' * len(models)}\n"
    return head + "\n".join(lines) + "\n" if lines else "No figures.\n"


def model_card(config: Config, what: str, evidence: str = "") -> str:
    """Return Markdown for the README.md of an unlearned model: its origin, its recipe, its evidence and its limits.

    Args:
      what: the title.
      evidence: from `evidence_of`, where the model was measured.
    """
    forget, retain = config.forget, config.retain
    term = make_retain(config)
    kept = f"{term.describe()}, on {retain.path}" if term else "no retain term"
    undo, wrapping = config.undo, ""
    if wrapped := make_wrappers(config).describe():
        wrapping = f"| gradient | {wrapped} |\n"
    if undo.alpha:
        noise = f"alpha {undo.alpha:g}, beta {undo.beta:g}, then distilled at learning rate {undo.learning_rate}"
        wrapping += f"| noise (UNDO, arXiv 2506.06278) | {noise} |\n"
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
{wrapping}
{evidence}
## Limits

{LIMITS}
"""
