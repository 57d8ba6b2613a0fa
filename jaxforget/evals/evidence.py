"""Rows of evidence: one figure of one model under one convention."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxforget.errors import UserError
from jaxforget.evals.intervals import bootstrap


def evidence(
    metric: str, convention: str, model: str, value: float, n: int, interval: tuple[float, float] | None = None
) -> dict[str, Any]:
    """A row of `n` items; `interval` is its 95 % interval where it has one."""
    low, high = (None, None) if interval is None else (float(interval[0]), float(interval[1]))
    row = {"metric": metric, "convention": convention, "model": model}
    return row | {"value": float(value), "low": low, "high": high, "n": int(n)}


def mean_evidence(metric: str, convention: str, model: str, values: Any) -> dict[str, Any]:
    """The mean of `values`, one per item [items], with its 95 % bootstrap interval over the items."""
    values = np.asarray(values, np.float64)
    return evidence(metric, convention, model, values.mean(), len(values), bootstrap(np.mean, [values]))


def check_convention(convention: str, known: Sequence[str]) -> None:
    """Raises `UserError` for a convention not among `known`."""
    if convention not in known:
        raise UserError(f"convention={convention!r}: the conventions are {' and '.join(known)}")


COLUMNS = ("metric", "convention", "model", "value", "low", "high", "n")
WIDE = 6  # columns of a table that a page still shows


def evidence_csv(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as CSV, a header first; what has no interval leaves its bounds empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([["" if row[name] is None else row[name] for name in COLUMNS] for row in rows])
    return out.getvalue()


def evidence_markdown(tables: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Markdown: under the name of each suite its rows, a line a model and a column a metric under one convention."""
    parts = ["# Evidence\n\nIn brackets 95 % bootstrap intervals. Below each table, what its columns are.\n"]
    for suite, rows in tables.items():
        cells = {(row["metric"], row["convention"], row["model"]): row for row in rows}
        columns = list(dict.fromkeys((row["metric"], row["convention"]) for row in rows))
        models = list(dict.fromkeys(row["model"] for row in rows))
        parts.append(f"\n## {suite}\n")
        for first in range(0, len(columns), WIDE):
            some = columns[first : first + WIDE]
            parts.append("\n" + "\n".join(_table(some, models, cells)) + "\n")
    return "".join(parts)


def _table(columns: list[tuple[str, str]], models: list[str], cells: Mapping[tuple, dict[str, Any]]) -> list[str]:
    lines = ["| | " + " | ".join(f"{metric} [{i}]" for i, (metric, _) in enumerate(columns, 1)) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for model in models:
        lines.append(f"| {model} | " + " | ".join(_cell(cells.get((*column, model))) for column in columns) + " |")
    said = []
    for i, (_, convention) in enumerate(columns, 1):
        counts = sorted({row["n"] for (m, c, _), row in cells.items() if (m, c) == columns[i - 1]})
        said.append(f"[{i}] {convention}; n = {', '.join(map(str, counts))}")
    return [*lines, "", *(f"{line}  " for line in said)]


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    bounds = "" if row["low"] is None else f" ({row['low']:.4g} to {row['high']:.4g})"
    return f"{row['value']:.4g}{bounds}"
