"""Figures as SVG text: pure functions from numbers to one `<svg>` element without fonts or scripts.

Colours are CSS custom properties (`tones.style`), so that one figure serves light and dark pages. Lines and points have
labels beside the plot instead of a legend, and labels are moved apart where they would overlap.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from jaxforget.report.tones import escape, figure, model_tones, share, step_ticks, tick_texts, ticks

LEFT = 42  # width of the tick labels of the vertical axis


@dataclass(frozen=True)
class Line:
    """A polyline through (x, y) in data units; a y of None breaks it. `label` is written beside its last point."""

    points: tuple[tuple[float, float | None], ...]
    tone: str
    label: str = ""
    form: str = "solid"  # solid | dashed | hollow (a ring at every point, no line); only a solid line gets dots


def space_labels(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the positions nearest to `wanted`, by squared distance, at least `gap` apart and inside [low, high].

    Where they do not all fit, the gap shrinks.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(len(wanted) - 1, 1))
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    # Less k gaps, position k may not be below position k - 1: isotonic regression, by pooling neighbours.
    pools: list[list[float]] = []
    for k, i in enumerate(order):
        pools.append([wanted[i] - k * gap])
        while len(pools) > 1 and fmean(pools[-2]) > fmean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    result = [0.0] * len(wanted)
    means = (fmean(pool) for pool in pools for _ in pool)
    for k, (i, mean) in enumerate(zip(order, means, strict=True)):
        result[i] = min(max(mean, low), high - (len(wanted) - 1) * gap) + k * gap
    return result


def chart(
    lines: Sequence[Line],
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[float],
    *,
    described: str,
    x_label: str = "",
    width: int = 360,
    height: int = 220,
) -> str:
    """Return one `<svg>` of the lines over the given ticks, which are also the ends of the axes.

    Args:
      described: the figure in words, for screen readers.
      width, height: of the view box, pixels.
    """
    shown = [line for line in lines if any(y is not None for _, y in line.points)]
    longest = max((len(line.label) for line in shown), default=0)
    right, top, bottom = width - min(24 + 6 * longest, 165), 10, height - (38 if x_label else 24)
    out, px, py = _axes(x_ticks, y_ticks, (LEFT, right, top, bottom), (width, height), described, x_label)
    ends = []
    for line in shown:
        out.append(_polyline(line, px, py))
        x, y = [(x, y) for x, y in line.points if y is not None][-1]
        ends.append((px(x), py(y), line))
    named = [end for end in ends if end[2].label]
    for (x, y, line), at in zip(named, space_labels([e[1] for e in named], 13, top, bottom), strict=True):
        out.append(f'<g class="t-{line.tone}"><path class="leader" d="M{x + 4:.1f} {y:.1f}L{right + 13} {at:.1f}"/>')
        out.append(f'<text class="label" x="{right + 16}" y="{at + 4:.1f}">{escape(line.label)}</text></g>')
    return "".join([*out, "</svg>"])


def _axes(
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[float],
    plot: tuple[float, float, float, float],
    size: tuple[int, int],
    described: str,
    x_label: str,
    y_label: str = "",
) -> tuple[list[str], Callable[[float], float], Callable[[float], float]]:
    """Open the `<svg>` and draw its axes.

    Args:
      plot: (left, right, top, bottom) of the plot's area, pixels.
      size: (width, height) of the view box, pixels.

    Returns:
      The SVG so far, and the functions from data units to pixels of both axes.
    """
    left, right, top, bottom = plot
    width, height = size
    x_low, x_high = x_ticks[0][0], x_ticks[-1][0]
    y_low, y_high = y_ticks[0], y_ticks[-1]

    def px(x: float) -> float:
        return left + (right - left) * (x - x_low) / ((x_high - x_low) or 1)

    def py(y: float) -> float:
        return bottom - (bottom - top) * (min(max(y, y_low), y_high) - y_low) / ((y_high - y_low) or 1)

    out = [f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(described)}">']
    for y, name in zip(y_ticks, tick_texts(y_ticks), strict=True):
        out.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        out.append(f'<text x="{left - 6}" y="{py(y) + 4:.1f}" text-anchor="end">{name}</text>')
    taken = math.inf
    for x, name in reversed(x_ticks):
        # From the right, so that the last tick keeps its label; one that would touch its neighbour is left out.
        half = 3.2 * len(name)
        if px(x) + half <= taken:
            out.append(f'<text x="{px(x):.1f}" y="{bottom + 16}" text-anchor="middle">{escape(name)}</text>')
            taken = px(x) - half - 7
    if x_label:
        middle = (left + right) / 2
        out.append(f'<text x="{middle:.1f}" y="{height - 5}" text-anchor="middle">{escape(x_label)}</text>')
    if y_label:
        out.append(f'<text x="2" y="11">{escape(y_label)}</text>')
    return out, px, py


def _polyline(line: Line, px, py) -> str:
    if line.form == "hollow":
        rings = (
            f'<circle class="hollow" r="3.4" cx="{px(x):.1f}" cy="{py(y):.1f}"/>'
            for x, y in line.points
            if y is not None
        )
        return f'<g class="t-{line.tone}">{"".join(rings)}</g>'
    path, pen_down = [], False
    for x, y in line.points:
        if y is not None:
            path.append(f"{'L' if pen_down else 'M'}{px(x):.1f} {py(y):.1f}")
        pen_down = y is not None
    form = "" if line.form == "solid" else f" {line.form}"
    out = f'<g class="t-{line.tone}"><path class="line{form}" d="{"".join(path)}"/>'
    if line.form == "solid" and len(line.points) <= 40:
        out += "".join(
            f'<circle class="dot" r="2.6" cx="{px(x):.1f}" cy="{py(y):.1f}"/>' for x, y in line.points if y is not None
        )
    return out + "</g>"


def quantity_chart(
    name: str,
    rows_by_model: Mapping[str, Sequence[Mapping[str, float | None]]],
    width: int = 360,
    height: int = 220,
) -> str | None:
    """Return one quantity against steps: a model of several rows is a curve, one of a single row a dashed line.

    Returns:
      SVG, or None where no row holds the quantity.
    """
    points = {
        model: tuple((float(row["step"] or 0), row.get(name)) for row in rows) for model, rows in rows_by_model.items()
    }
    points = {model: line for model, line in points.items() if any(y is not None for _, y in line)}
    if not points:
        return None
    values = [y for line in points.values() for _, y in line if y is not None]
    curves = {model: line for model, line in points.items() if len(line) > 1}
    x_ticks = step_ticks(x for line in (curves or points).values() for x, _ in line)
    if name == "perplexity":
        # A view of at least a tenth of the value, or the noise of a good run would fill the figure.
        middle = (min(values) + max(values)) / 2
        y_ticks = ticks(min(*values, middle * 0.95), max(*values, middle * 1.05))
    elif name == "margin":
        y_ticks = ticks(min(*values, 0.0), max(*values, 1.0))
    else:
        y_ticks = ticks(0.0, min(max(*values, 0.02), 1.0) if max(values) <= 1 else max(values))
    lines, tones = [], model_tones(rows_by_model)
    for model, line in points.items():
        end = [y for _, y in line if y is not None][-1]
        label = f"{model[:17]} {share(end) if name in ('familiarity', 'retained') else figure(end)}"
        if model in curves:
            lines.append(Line(line, tones[model], label))
        else:
            lines.append(Line(((x_ticks[0][0], end), (x_ticks[-1][0], end)), tones[model], label, "dashed"))
    # References first, so that the curves lie on top.
    lines.sort(key=lambda line: line.form == "solid")
    told = ", ".join(line.label for line in lines)
    return chart(
        lines, x_ticks, y_ticks, described=f"{name} against steps; at the end: {told}", x_label="steps",
        width=width, height=height,
    )  # fmt: skip


def trade_off(
    points: Mapping[str, tuple[float, float]],
    tones: Mapping[str, str],
    width: int = 340,
    height: int = 290,
    *,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    fit_y: bool = False,
    labels: tuple[str, str] = ("knowledge of the target (lower is better)", "retained knowledge (higher is better)"),
) -> str:
    """Return the scatter of knowledge of the target (x) against knowledge to keep (y), one point a model.

    Both axes run from 0 to 1 where all values do, so that no difference looks larger than it is, unless `fit_y`.

    Args:
      points: model -> (x, y).
      tones: model -> the name of its colour.
      width: of the view box, pixels.
      height: of the view box, pixels.
      intervals: model -> half the lengths of the bars through its point, in both directions.
      fit_y: the y axis spans the points and their bars only, which separates many points.
      labels: of the axes.
    """
    xs, ys = [x for x, _ in points.values()], [y for _, y in points.values()]
    ends = [y + sign * (intervals or {}).get(m, (0.0, 0.0))[1] for m, (_, y) in points.items() for sign in (-1, 1)]
    x_values = ticks(min(0.0, *xs), max(1.0, *xs))
    y_ticks = ticks(min(ends), max(ends)) if fit_y else ticks(0.0, max(1.0, *ys))
    x_ticks = list(zip(x_values, tick_texts(x_values), strict=True))
    told = "; ".join(f"{model}: {figure(x)} of the target, {figure(y)} retained" for model, (x, y) in points.items())
    out, px, py = _axes(
        x_ticks, y_ticks, (LEFT, width - 16, 24, height - 38), (width, height),
        f"knowledge of the target against retained knowledge. {told}", *labels,
    )  # fmt: skip
    for model, (across, along) in (intervals or {}).items():
        if across or along:
            x, y = points[model]
            low, high = max(x - across, x_values[0]), min(x + across, x_values[-1])
            out.append(
                f'<g class="t-{tones[model]}"><path class="line interval" d="M{px(low):.1f} {py(y):.1f}'
                f'H{px(high):.1f}M{px(x):.1f} {py(y - along):.1f}V{py(y + along):.1f}"/></g>'
            )
    middle = px((x_values[0] + x_values[-1]) / 2)
    labels_at = []
    for model, (x, y) in points.items():
        # Labels of points in the right half are to their left, inside the plot.
        side = -1 if px(x) > middle else 1
        # A label beside a bar of its point's height would be struck through, so it is written above the bar.
        raised = 11 if (intervals or {}).get(model, (0.0, 0.0))[0] else 0
        labels_at.append(_Label(model[:24], px(x), py(y), side, py(y) - raised, tones[model]))
    for group in _overlapping(labels_at):
        places = space_labels([label.wanted for label in group], 13, 30, height - 42)
        for label, at in zip(group, places, strict=True):
            end, anchor = label.x + 14 * label.side, "end" if label.side < 0 else "start"
            out.append(
                f'<g class="t-{label.tone}"><path class="leader" d="M{label.x:.1f} {label.y:.1f}L{end:.1f} {at:.1f}"/>'
                f'<circle class="dot" r="5" cx="{label.x:.1f}" cy="{label.y:.1f}"/>'
                f'<text class="label" text-anchor="{anchor}" x="{end + 3 * label.side:.1f}" y="{at + 4:.1f}">'
                f"{escape(label.text)}</text></g>"
            )
    return "".join([*out, "</svg>"])


@dataclass(frozen=True)
class _Label:
    """A label of a point at (x, y), to its right (side 1) or left (side -1), at the height `wanted` if it can."""

    text: str
    x: float
    y: float
    side: int
    wanted: float
    tone: str

    def extent(self) -> tuple[float, float]:
        """Return the left and the right end of the label and its leader, in pixels."""
        end = self.x + self.side * (17 + 6.5 * len(self.text))
        return min(self.x, end), max(self.x, end)


def _overlapping(labels: Sequence[_Label]) -> list[list[_Label]]:
    """Return the labels in groups: those of two groups share no column of pixels, so they cannot touch."""
    groups: list[list[_Label]] = []
    reached = -math.inf
    for label in sorted(labels, key=_Label.extent):
        low, high = label.extent()
        if low > reached:
            groups.append([])
        groups[-1].append(label)
        reached = max(reached, high)
    return groups


def bucketed(points: Sequence[tuple[float, float | None]], limit: int = 300) -> tuple[tuple[float, float | None], ...]:
    """Return at most `limit` points, each the mean of consecutive ones, so that long runs stay small on the page."""
    if len(points) <= limit:
        return tuple(points)
    edges = [round(i * len(points) / limit) for i in range(limit + 1)]
    means = []
    for a, b in pairwise(edges):
        ys = [y for _, y in points[a:b] if y is not None]
        means.append((points[b - 1][0], sum(ys) / len(ys) if ys else None))
    return tuple(means)
