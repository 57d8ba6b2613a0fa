"""The next tokens of one prompt as training goes on: known ones fall, general ones rise.

This is the figure of "Harry Potter studies ___" in WHP (2310.02238), for any prompt.
"""

from jaxforget.report.artefacts import Dynamics, TokenProbability
from jaxforget.report.plots import Line, chart
from jaxforget.report.tones import figure, step_ticks, ticks

LINES = 6


def plain(piece: str) -> str:
    """Return a token of the vocabulary as text: tokenizers' symbols for a space and a new line are replaced."""
    for symbol, text in (("▁", " "), ("Ġ", " "), ("Ċ", "\n"), ("<0x0A>", "\n")):
        piece = piece.replace(symbol, text)
    return piece


def spelled(token: str) -> str:
    """Return a token as a reader can see it: a middle dot for its leading space, an arrow for a new line."""
    token = plain(token)
    if token.startswith(" "):
        token = "·" + token[1:]
    token = token.replace("\n", "⏎").replace("\t", "⇥")
    return token[:15] + "…" if len(token) > 16 else token


def _probability(top: tuple[TokenProbability, ...], token: str) -> float | None:
    """Return the token's probability; for one outside the list the list's smallest, which it cannot exceed."""
    if not top:
        return None
    return next((t.p for t in top if t.token == token), min(t.p for t in top))


def columns(dynamics: Dynamics) -> list[tuple[float, str, tuple[TokenProbability, ...]]]:
    """Return (x, name, top tokens) from left to right: base as step 0, the student's steps, and control after them."""
    steps = dict(dynamics.steps)
    if 0 not in steps and "base" in dynamics.models:
        steps[0] = dynamics.models["base"]
    found = [(float(step), f"{step:,}", top) for step, top in sorted(steps.items())]
    if "control" in dynamics.models:
        last = found[-1][0] if found else 0.0
        found.append((last + max(last * 0.2, 1.0), "control", dynamics.models["control"]))
    return found


def leading_tokens(dynamics: Dynamics) -> list[str]:
    """Return the tokens that get a line: the most likely ones of any column."""
    best: dict[str, float] = {}
    for _, _, top in columns(dynamics):
        for t in top:
            best[t.token] = max(best.get(t.token, 0.0), t.p)
    return sorted(best, key=lambda token: -best[token])[:LINES]


def dynamics_chart(dynamics: Dynamics, width: int = 380, height: int = 240) -> str | None:
    """Return the chart of the leading tokens' probability against steps; None where there is nothing to draw.

    A label holds the student's last probability. The control's probabilities are rings in a column of their own.
    """
    found = columns(dynamics)
    tokens = leading_tokens(dynamics)
    if not tokens:
        return None
    control = found[-1] if found[-1][1] == "control" else None
    trained = found[:-1] if control else found
    lines, seen, told = [], {"fell": 0, "rose": 0}, []
    for token in tokens:
        points = tuple((x, _probability(top, token)) for x, _, top in trained)
        known = [y for _, y in points if y is not None]
        way = "fell" if known and known[0] > known[-1] else "rose"
        seen[way] += 1
        tone = f"{way}{seen[way]}"
        if known:
            lines.append(Line(points, tone, f"{spelled(token)} {figure(known[-1])}"))
            told.append(f"{spelled(token)} {figure(known[0])} to {figure(known[-1])}")
        if control:
            reference = _probability(control[2], token)
            label = "" if known else f"{spelled(token)} {figure(reference)}"
            lines.append(Line(((control[0], reference),), tone, label, "hollow"))
    top = max(y for line in lines for _, y in line.points if y is not None)
    x_ticks = step_ticks(x for x, _, _ in trained) if trained else []
    if control:
        x_ticks = [*x_ticks, (control[0], "control")]
    return chart(
        lines, x_ticks, ticks(0.0, min(max(top, 0.05), 1.0)),
        described=f"next-token probabilities against steps: {'; '.join(told)}", x_label="steps", width=width,
        height=height,
    )  # fmt: skip
