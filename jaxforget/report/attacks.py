"""Attacks against the control, and the words of the target that a model still predicts: values for the template."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from jaxforget.evals.rows import ABOVE, Row
from jaxforget.report.artefacts import Audit, LeakingWord, model_order
from jaxforget.report.plots import quantity_chart
from jaxforget.report.texts import piece
from jaxforget.report.tones import figure, share
from jaxforget.report.verdict import attack_name, attacks_above

RELEARNED = re.compile(r"(relearn_\w+)_(\d+)")
NAMES = {
    "relearn_target": "Relearning on target text",
    "relearn_neighbours": "Relearning on neighbours' text",
    "relearn_unrelated": "Relearning on unrelated text",
}
PASSAGES = 5
NAMED = 30
BARS = 6


def attacks(summary: Sequence[Row], metrics: frozenset[str]) -> dict[str, Any] | None:
    """Return attacks by line and models by column, each value beside its distance above the control.

    Args:
      summary: evidence of all models.
      metrics: those of the suites that attack; None is returned where the summary holds none of them.
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
            value = None if row is None else row.value
            cells.append((model, value, "" if row is None else figure(value), _distance(more)))
        convention = next(row.convention for (name, _), row in values.items() if name == metric)
        lines.append({"attack": attack_name(metric), "convention": convention, "cells": cells})
    students = _students(models)
    return {
        "models": models,
        "rows": lines,
        "charts": _curves(values, models),
        "readings": [_reading(values, rows, student) for student in students],
        "bars": _bars(values, rows, students),
    }


def _distance(row: Row | None) -> str:
    if row is None or row.value is None:
        return ""
    sign = "+" if row.value >= 0 else ""
    bounds = "" if row.low is None or row.high is None else f" ({figure(row.low)} to {figure(row.high)})"
    return f"{sign}{figure(row.value)}{bounds}"


def _students(models: Sequence[str]) -> list[str]:
    """Return the unlearned models; on a page of several runs each name begins with its run's."""
    return [model for model in models if model.split(": ")[-1] == "unlearned"]


def _bars(values: Mapping[tuple[str, str], Row], rows: Sequence[Row], students: Sequence[str]) -> list[dict[str, Any]]:
    """Return the strongest attacks on the unlearned models, each with bars for them and for the control, in percent.

    Of relearning on one text, only the number of steps that brings most back is kept.
    """
    found: dict[str, float] = {}
    for student in students:
        for attack, above in attacks_above(rows, student).items():
            found[attack] = max(above, found.get(attack, above))
    kinds: dict[str, str] = {}
    for attack in sorted(found, key=lambda name: -found[name]):
        relearned = RELEARNED.fullmatch(attack)
        kinds.setdefault(relearned[1] if relearned else attack, attack)
    bars = []
    for attack in list(kinds.values())[:BARS]:
        pair = [(m, values[attack, m].value) for m in (*students, "control") if (attack, m) in values]
        shown = [(m, share(v), 100 * min(max(v, 0.0), 1.0)) for m, v in pair]
        bars.append({"attack": attack_name(attack), "bars": shown})
    return bars


def _curves(values: Mapping[tuple[str, str], Row], models: Sequence[str]) -> list[tuple[str, Markup]]:
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


def _reading(values: Mapping[tuple[str, str], Row], rows: Sequence[Row], student: str) -> str:
    """Name the attack that brings most back, in a sentence."""
    found = attacks_above(rows, student)
    name = "the unlearned model" if student == "unlearned" else student
    if not found:
        return f"No attack on {name} can be compared with a control, so the score of no knowledge is unknown."
    worst = max(found, key=lambda attack: found[attack])
    plain = values.get(("plain", student))
    asked = "" if plain is None else f"Asked plainly, {name} scores {share(plain.value)}. "
    value = values[worst, student].value
    return (
        f"{asked}Most comes back under {attack_name(worst)}: {figure(value)}, "
        f"which is {figure(found[worst])} above the control."
    )


def _information(word: LeakingWord) -> float:
    """Return the information about a word that the model has and the control has not, summed over its places, in nats.

    The sum of probabilities would put common words first: "his" is a little more probable in many places. Names of the
    target are improbable under the control, so the logarithm of the ratio is large for them.
    """
    model, reference = max(word.model, 1e-9), max(word.reference, 1e-6)
    return word.count * model * math.log(model / reference)


def audit(found: Audit | None) -> dict[str, Any] | None:
    """Return words and passages, the worst first; None where no audit was made."""
    if found is None:
        return None
    words = found.words
    if found.against == "control":
        words = sorted(words, key=_information, reverse=True)
    shown = []
    for passage in found.passages[:PASSAGES]:
        pieces = [
            {
                **piece(word.text),
                "leaked": word.leaked,
                "model": figure(word.model),
                "reference": figure(word.reference),
            }
            for word in passage.words
        ]
        shown.append({"number": passage.number, "excess": figure(passage.excess), "words": pieces})
    return {
        "against": found.against,
        "words": [(w.word, w.count, w.leaked, figure(w.model), figure(w.reference)) for w in words[:NAMED]],
        "passages": shown,
        "left_out": max(0, len(found.passages) - PASSAGES),
    }
