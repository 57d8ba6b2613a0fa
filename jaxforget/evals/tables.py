"""Tables of rows: CSV, Markdown, and the lines about attacks that the terminal shows."""

import csv
import io
from collections.abc import Mapping, Sequence

from jaxforget.evals.rows import ABOVE, COLUMNS, Row

WIDE = 6  # columns of a table that still fit a page


def rows_csv(rows: Sequence[Row]) -> str:
    """Return the rows as CSV with a header; the bounds of a figure without an interval are empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([["" if value is None else value for value in row.as_json().values()] for row in rows])
    return out.getvalue()


def rows_markdown(tables: Mapping[str, Sequence[Row]]) -> str:
    """Return Markdown: for each suite a table with a line a model and a column a metric under one convention."""
    parts = ["# Evidence\n\nIn brackets 95 % bootstrap intervals. Below each table, what its columns are.\n"]
    for suite, rows in tables.items():
        cells = {(row.metric, row.convention, row.model): row for row in rows}
        columns = list(dict.fromkeys((row.metric, row.convention) for row in rows))
        models = list(dict.fromkeys(row.model for row in rows))
        parts.append(f"\n## {suite}\n")
        for first in range(0, len(columns), WIDE):
            some = columns[first : first + WIDE]
            parts.append("\n" + "\n".join(_table(some, models, cells)) + "\n")
    return "".join(parts)


def _table(columns: list[tuple[str, str]], models: list[str], cells: Mapping[tuple, Row]) -> list[str]:
    lines = ["| | " + " | ".join(f"{metric} [{i}]" for i, (metric, _) in enumerate(columns, 1)) + " |"]
    lines.append("|---|" + "---|" * len(columns))
    for model in models:
        lines.append(f"| {model} | " + " | ".join(_cell(cells.get((*column, model))) for column in columns) + " |")
    notes = []
    for i, (_, convention) in enumerate(columns, 1):
        counts = sorted({row.n for (m, c, _), row in cells.items() if (m, c) == columns[i - 1]})
        notes.append(f"[{i}] {convention}; n = {', '.join(map(str, counts))}")
    return [*lines, "", *(f"{line}  " for line in notes)]


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    bounds = "" if row.low is None else f" ({row.low:.4g} to {row.high:.4g})"
    return f"{row.value:.4g}{bounds}"


def metric_lines(values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return lines of a table with a row a model and a column a metric; integers are shown without decimals.

    Args:
      values: model -> metric -> figure.
    """
    metrics = list(dict.fromkeys(metric for figures in values.values() for metric in figures))
    width = max((len(model) for model in values), default=0)
    lines = [f"{'':{width}}  " + "  ".join(f"{metric:>11}" for metric in metrics)] if values else []
    for model, figures in values.items():
        cells = (_figure(figures.get(metric)) for metric in metrics)
        lines.append(f"{model:{width}}  " + "  ".join(f"{cell:>11}" for cell in cells))
    return lines


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def attack_lines(rows: Sequence[Row]) -> list[str]:
    """Return lines of a table: an attack a line, a model a column, the distance above the control in brackets."""
    plain = {(r.metric, r.model): r.value for r in rows if not r.metric.endswith(ABOVE)}
    above = {(r.metric.removesuffix(ABOVE), r.model): r.value for r in rows if r.metric.endswith(ABOVE)}
    attacks = list(dict.fromkeys(metric for metric, _ in plain))
    models = list(dict.fromkeys(model for _, model in plain))
    width = max((len(attack) for attack in attacks), default=0)
    lines = [" ".join([" " * width, *(f"{model:>17}" for model in models)])] if rows else []
    for attack in attacks:
        cells = []
        for model in models:
            value, more = plain.get((attack, model)), above.get((attack, model))
            text = "" if value is None else f"{value:.4f}" + ("" if more is None else f" ({more:+.4f})")
            cells.append(f"{text:>17}")
        lines.append(" ".join([f"{attack:{width}}", *cells]))
    return lines


def effective_attack_lines(rows: Sequence[Row]) -> list[str]:
    """Return a line a model with the attacks that bring knowledge back, the worst first.

    An attack brings knowledge back where the model's distance above the control is larger than under the plain
    questions, and the 95 % intervals of the two distances do not overlap. A model without a plain distance is left out.
    """
    above: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.metric.endswith(ABOVE):
            above.setdefault(row.model, {})[row.metric.removesuffix(ABOVE)] = row
    lines = []
    for model, distances in above.items():
        if "plain" not in distances:
            continue
        asked = distances["plain"]
        worse = [(row.value, attack) for attack, row in distances.items() if row.low > asked.high]
        found = ", ".join(f"{attack} {value:+.4f}" for value, attack in sorted(worse, reverse=True))
        lines.append(f"{model}: brought back, above the control (plain {asked.value:+.4f}): {found or 'no attack'}")
    return lines
