"""Colours of the page and its figures, and the way in which numbers are written."""

import html
import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from jaxforget.report.artefacts import MODEL_ORDER

# (light, dark). Every tone but grid and page keeps a contrast of at least 4.5 to 1 against its page, because labels
# are written in it.
TONES = {
    "ink": ("#1d1f23", "#e8e7e3"),
    "soft": ("#5d626b", "#a3a8b0"),
    "grid": ("#e2e2de", "#34373c"),
    "page": ("#fdfdfb", "#15171a"),
    "good": ("#0a7554", "#50c49c"),
    "warn": ("#8a5a12", "#e0bd7c"),
    "bad": ("#b3261e", "#ff8a80"),
    "none": ("#5d626b", "#a3a8b0"),
    "base": ("#676b73", "#a9aeb7"),
    "reinforced": ("#9c3f85", "#db90c6"),
    "paper": ("#ad4f08", "#f09a5e"),
    "unlearned": ("#0a5fa3", "#68b3f2"),
    "control": ("#0a7554", "#50c49c"),
    "other1": ("#735600", "#d9b449"),
    "other2": ("#a02c9a", "#e58fe0"),
    "other3": ("#00707f", "#4fc3d6"),
    "other4": ("#c01f2e", "#ff8a8a"),
    "other5": ("#5a4fc0", "#aca4f4"),
    "other6": ("#4c6a00", "#a8c94f"),
    # Next tokens that become less likely have warm colours, those that become more likely cool ones.
    "fell1": ("#a63c06", "#f5a06a"),
    "fell2": ("#b0306a", "#f08fb4"),
    "fell3": ("#8a5a12", "#e0bd7c"),
    "fell4": ("#c01f2e", "#ff8a8a"),
    "fell5": ("#5f4a1f", "#c9b48a"),
    "fell6": ("#7d2f55", "#d9a0c0"),
    "rose1": ("#0a5fa3", "#68b3f2"),
    "rose2": ("#0a7554", "#50c49c"),
    "rose3": ("#5a4fc0", "#aca4f4"),
    "rose4": ("#00707f", "#4fc3d6"),
    "rose5": ("#4c6a00", "#a8c94f"),
    "rose6": ("#3a4a6b", "#9fb2d9"),
}
OTHERS = 6

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffe\uffff\ud800-\udfff]")


# Rules of the figures: (selector, declarations).
_RULES = (
    (
        "svg text",
        "font-family:ui-sans-serif,system-ui,sans-serif;font-size:11px;font-variant-numeric:tabular-nums;"
        "fill:var(--soft);unicode-bidi:isolate",
    ),
    # The stroke keeps lines behind a label from striking it through.
    ("svg .label", "fill:var(--tone);stroke:var(--page);stroke-width:3px;stroke-linejoin:round;paint-order:stroke"),
    ("svg .title", "font-size:13px;font-weight:600;fill:var(--ink)"),
    ("svg .grid", "stroke:var(--grid)"),
    ("svg .line", "fill:none;stroke:var(--tone);stroke-width:2;stroke-linejoin:round;stroke-linecap:round"),
    ("svg .dashed", "stroke-width:1.3;stroke-dasharray:5 4"),
    ("svg .interval", "stroke-width:1.2"),
    ("svg .dot", "fill:var(--tone)"),
    ("svg .hollow", "fill:var(--page);stroke:var(--tone);stroke-width:1.6"),
    ("svg .leader", "stroke:var(--tone);stroke-width:.7;opacity:.6"),
)


def style() -> str:
    """Return CSS: the tones for light and dark pages, and the rules that the figures share."""
    light = "".join(f"--{name}:{pair[0]};" for name, pair in TONES.items())
    dark = "".join(f"--{name}:{pair[1]};" for name, pair in TONES.items())
    return (
        f":root{{color-scheme:light dark;{light}}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}"
        # Paper is white, whatever the screen was.
        f"@media print{{:root{{color-scheme:light;{light}}}}}"
        + "".join(f".t-{name}{{--tone:var(--{name})}}" for name in TONES)
        + "".join(f"{selector}{{{declared}}}" for selector, declared in _RULES)
    )


def light_style() -> str:
    """Return the figures' CSS with the light colours written out, for renderers without custom properties."""
    rules = []
    for selector, declared in _RULES:
        for one in declared.split(";"):
            one = re.sub(r"var\(--(?!tone)(\w+)\)", lambda found: TONES[found[1]][0], one)
            if "var(--tone)" not in one:
                rules.append(f"{selector}{{{one}}}")
            else:
                inner = selector.removeprefix("svg ")
                rules += [f".t-{name} {inner}{{{one.replace('var(--tone)', TONES[name][0])}}}" for name in TONES]
    return "".join(rules)


def model_tones(models: Iterable[str]) -> dict[str, str]:
    """Return the tone of every model; those that the method does not name get one each, as far as there are any."""
    others = (f"other{i % OTHERS + 1}" for i in range(10_000))
    return {model: model if model in MODEL_ORDER else next(others) for model in dict.fromkeys(models)}


def escape(text: str) -> str:
    """Return text for markup: `<`, `&` and quotes as entities, and characters that XML forbids as U+FFFD."""
    return html.escape(_CONTROL.sub("\ufffd", text))


def figure(value: float | None) -> str:
    """Return a number with three significant digits, such as 0.044, 12.3 or 4,096; an en dash for None or NaN."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == int(value) and size < 1e6:
        return f"{int(value):,}".replace("-", "−")
    if size < 0.0005 or size >= 1e6:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    digits = 3 if size < 1 else 2 if size < 10 else 1 if size < 100 else 0
    return f"{value:,.{digits}f}".replace("-", "−")


def share(value: float | None) -> str:
    """Return a probability as `figure` does, but "<0.001" where powers of ten would only distract."""
    return "<0.001" if value is not None and 0 < value < 0.0005 else figure(value)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about `count` round numbers that enclose [low, high], spaced 1, 2, 2.5 or 5 times a power of ten."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def tick_texts(values: Sequence[float]) -> list[str]:
    """Return the ticks' labels: one power of ten for all of them, and as many decimals as their spacing needs."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    power = 0
    if step < 1e-3 or step >= 1e5:
        power = math.floor(math.log10(max(abs(v) for v in values)))
    scaled = step / 10.0**power
    digits = next((d for d in range(12) if round(scaled * 10**d) > 0 and _whole(scaled * 10**d)), 12)
    ending = f"e{power}" if power else ""
    texts = [f"{v / 10.0**power:,.{digits}f}{ending}" if v or not power else "0" for v in values]
    return [text.replace("-", "−") for text in texts]


def _whole(value: float) -> bool:
    return abs(value - round(value)) < 1e-6 * value


def step_ticks(steps: Iterable[float]) -> list[tuple[float, str]]:
    """Return the ticks of an axis of training steps: round numbers, closed by the last step itself."""
    steps = sorted(steps)
    low, high = (steps[0], steps[-1]) if steps else (0, 1)
    high = max(high, low + 1)
    inner = [t for t in ticks(low, high, 5) if low <= t < high and t == int(t)]
    return [(float(t), f"{int(t):,}") for t in dict.fromkeys([low, *inner, high])]
