"""The evidence: one table a suite, models as columns."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxforget.evals.rows import Row
from jaxforget.report.artefacts import model_order
from jaxforget.report.glossary import BETTER, meaning
from jaxforget.report.tones import figure

SAYS = {
    "probability": "questions about the target and about other things, and general text",
    "multiple_choice": "the user's own multiple-choice questions",
    "benchmarks": "public multiple-choice benchmarks, zero-shot",
    "harness": "tasks of lm-evaluation-harness",
    "muse": "MUSE, under its own conventions and those of open-unlearning",
    "tofu": "TOFU, under its own conventions and those of open-unlearning",
    "memorization": "how much of the target comes back word for word",
    "membership": "how well the target can be told from text that no model read",
    "completion": "completions, graded",
    "audit": "words of the target that are still predicted",
}


def evidence(
    rows: Sequence[Row], suites: Mapping[tuple[str, str], str], left_out: frozenset[str]
) -> list[dict[str, Any]]:
    """Return the tables by suite: a line a metric and convention, a column a model.

    Figures of two conventions never share a line, unless all of them are equal.

    Args:
      rows: the evidence.
      suites: (metric, convention) -> name of the suite; what is unknown goes under "other".
      left_out: metrics that the page shows elsewhere.
    """
    tables: dict[str, dict[tuple[str, str], dict[str, Row]]] = {}
    for row in rows:
        if row.metric not in left_out:
            suite = suites.get((row.metric, row.convention), "other")
            tables.setdefault(suite, {}).setdefault((row.metric, row.convention), {})[row.model] = row
    found = []
    for suite, lines in tables.items():
        models = model_order(model for cells in lines.values() for model in cells)
        merged = _merged(lines)
        names = [line["metric"] for line in merged]
        # A metric of several lines needs its convention beside its name.
        shown = [_line(line, models, twice=names.count(line["metric"]) > 1) for line in merged]
        found.append({"suite": suite, "says": SAYS.get(suite, ""), "models": models, "lines": shown})
    # Most of the reading is in the probabilities, which every run has.
    return sorted(found, key=lambda table: table["suite"] != "probability")


def _merged(lines: Mapping[tuple[str, str], Mapping[str, Row]]) -> list[dict[str, Any]]:
    """Return {"metric", "conventions", "also", "cells"} of every line; lines of the same figures are one.

    Conventions of one metric share a line where all figures are equal. So do several metrics of one direction where the
    models differ: an answer of one token has the same probability under every way of counting.
    """
    merged: dict[tuple, dict[str, Any]] = {}
    for (metric, convention), cells in lines.items():
        figures = tuple(sorted((m, r.value, r.low, r.high, r.n) for m, r in cells.items() if r.value is not None))
        told = len({row.value for row in cells.values()}) > 2  # fewer figures may agree by accident
        key = (meaning(metric)[0] if told else metric, figures)
        kept = merged.setdefault(key, {"metric": metric, "conventions": [], "also": [], "cells": cells})
        if metric != kept["metric"]:
            kept["also"].append(metric)
        kept["conventions"].append(convention)
    order = list(dict.fromkeys(metric for metric, _ in lines))
    return sorted(merged.values(), key=lambda line: order.index(line["metric"]))


def _line(line: Mapping[str, Any], models: Sequence[str], *, twice: bool) -> dict[str, Any]:
    metric, cells = line["metric"], line["cells"]
    better, sentence = meaning(metric)
    counts = sorted({row.n for row in cells.values() if row.n is not None})
    shown = []
    for model in models:
        row = cells.get(model)
        value = None if row is None else row.value
        whole = row is not None and row.low is not None and row.high is not None
        bounds = f"{figure(row.low)} to {figure(row.high)}" if whole else ""
        shown.append({"value": value, "text": "" if row is None else figure(value), "bounds": bounds})
    return {
        "metric": metric.replace("_", " "),
        "arrow": better,
        "better": BETTER[better],
        "sentence": sentence,
        "under": ", ".join(line["conventions"]) if twice else "",
        "also": [name.replace("_", " ") for name in dict.fromkeys(line["also"])],
        "conventions": line["conventions"],
        "n": ", ".join(f"{n:,}" for n in counts),
        "cells": shown,
    }
