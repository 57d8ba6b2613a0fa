"""What attacks brought back, and which words of the target a model still predicts: plain values for the template."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxforget.report.artefacts import AuditedPassage, Measurement, model_order
from jaxforget.report.plots import figure, quantity_chart

ABOVE = "_above_control"
RELEARNED = re.compile(r"(relearn_\w+)_(\d+)")
NAMES = {"relearn_target": "Relearning on target text", "relearn_neighbours": "Relearning on neighbours' text"}
PASSAGES = 5
NAMED = 30


def attacks(summary: Sequence[Measurement], metrics: frozenset[str]) -> dict[str, Any] | None:
    """Attacks by line and models by column, each value beside its distance above the control; curves of relearning.

    Args:
      metrics: of the suites that attack; None comes back where the summary holds none of them.
    """
    rows = [row for row in summary if row.metric in metrics and row.value is not None]
    if not rows:
        return None
    values = {(r.metric, r.model): r for r in rows if not r.metric.endswith(ABOVE)}
    above = {(r.metric.removesuffix(ABOVE), r.model): r for r in rows if r.metric.endswith(ABOVE)}
    models = model_order(model for _, model in values)
    lines = []
    for metric in dict.fromkeys(metric for metric, _ in values):
        cells = []
        for model in models:
            row, more = values.get((metric, model)), above.get((metric, model))
            cells.append((model, "" if row is None else figure(row.value), _distance(more)))
        convention = next(row.convention for (name, _), row in values.items() if name == metric)
        lines.append({"attack": metric.replace("_", " "), "convention": convention, "cells": cells})
    return {"models": models, "rows": lines, "charts": _curves(values, models), "reading": _reading(values, above)}


def _distance(row: Measurement | None) -> str:
    if row is None or row.value is None:
        return ""
    sign = "+" if row.value >= 0 else ""
    bounds = "" if row.low is None or row.high is None else f" ({figure(row.low)} to {figure(row.high)})"
    return f"{sign}{figure(row.value)}{bounds}"


def _curves(values: Mapping[tuple[str, str], Measurement], models: Sequence[str]) -> list[tuple[str, Markup]]:
    lines: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for (metric, model), row in values.items():
        if found := RELEARNED.fullmatch(metric):
            name, step = found[1], int(found[2])
            lines.setdefault(name, {}).setdefault(model, []).append({"step": step, name: row.value})
    charts = []
    for name, by_model in lines.items():
        ordered = {m: sorted(by_model[m], key=lambda row: row["step"]) for m in models if m in by_model}
        charts.append((NAMES.get(name, name.replace("_", " ")), Markup(quantity_chart(name, ordered))))
    return charts


def _reading(values: Mapping[tuple[str, str], Measurement], above: Mapping[tuple[str, str], Measurement]) -> str:
    """The attack that brings most back, in a sentence."""
    # On the way to base anything comes back in the end; it says how thin the forgetting is, and is no attack.
    found = {a: row for (a, model), row in above.items() if model == "unlearned" and not a.startswith("back_to_base")}
    if not found:
        return "There is no control here: what any model would give under such an attack is not known."
    worst = max(found, key=lambda attack: found[attack].value)
    plain = values.get(("plain", "unlearned"))
    asked = "" if plain is None else f"Asked plainly, the unlearned model scores {figure(plain.value)}. "
    value = values[worst, "unlearned"].value
    return (
        f"{asked}Most comes back under {worst.replace('_', ' ')}: {figure(value)}, "
        f"which is {figure(found[worst].value)} above the control."
    )


def audit(found: tuple[str, Sequence[Mapping[str, Any]], Sequence[AuditedPassage]] | None) -> dict[str, Any] | None:
    """Words and passages, worst first; None where no audit was made."""
    if found is None:
        return None
    against, words, passages = found
    shown = []
    for passage in passages[:PASSAGES]:
        pieces = [
            {
                "text": word.text.strip() or "·",
                "space": word.text[:1].isspace(),
                "break": "\n" in word.text,
                "leaked": word.leaked,
                "model": figure(word.model),
                "reference": figure(word.reference),
            }
            for word in passage.words
        ]
        shown.append({"number": passage.number, "excess": figure(passage.excess), "words": pieces})
    return {
        "against": against,
        "words": [
            (w["word"], w["count"], w["leaked"], figure(w["model"]), figure(w["reference"])) for w in words[:NAMED]
        ],
        "passages": shown,
        "left_out": max(0, len(passages) - PASSAGES),
    }
