"""The result of a comparison: mean and standard deviation of every measure, the recommended method, and a table."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from jaxforget.compare.measures import MEASURES, forgotten, kept, score

COLUMNS = {
    "familiarity": "familiarity",
    "retained": "retained",
    "perplexity": "perplexity",
    "target_acc": "target questions right",
    "margin": "margin, nats",
    "relearned": "familiarity after relearning",
    "int4": "familiarity in 4 bits",
}
RULE = """\
The table shows the test half of the questions. The recommended method, in bold, has the highest score: the harmonic
mean of *forgotten* and *kept*. *Forgotten* is the harmonic mean of three shares, those of familiarity, margin and
familiarity after relearning: 1 at the control (without a control: at 0), 0 at base, and 0 again as far beyond the
control. Base is not relearned; its familiarity stands for it. *Kept* is the harmonic mean of retained relative to base
and base's perplexity relative to the method's, each at most 1. So no other method both forgets more and keeps more.

Settings are chosen on the validation half of the questions, on the first seed, by the same score without relearning
and, if there are retained questions, without perplexity. *s a step* is the median of the forget stage on the machine of
the comparison.
"""


def conclude(
    measured: Sequence[Mapping[str, Mapping[str, float | None]]],
    settings: Mapping[str, Mapping[str, Any]],
    seconds: Mapping[str, float | None],
) -> dict[str, Any]:
    """Return the content of compare.json.

    Args:
      measured: for each seed, the figures of base, of the control and of each method; a method without figures
        diverged on that seed.
      settings: method -> the options of its chosen trial.
      seconds: method -> median seconds of a step.
    """
    methods = {
        name: {**summarize(measured, name), "seconds_per_step": seconds[name], "settings": dict(settings[name])}
        for name in settings
    }
    base, control = summarize(measured, "base"), None
    if all("control" in figures for figures in measured):
        control = summarize(measured, "control")
    scores = {name: score(means(each), means(base), means(control)) for name, each in methods.items()}
    finished = [name for name in methods if methods[name]["familiarity"] is not None]
    recommended = max(finished, key=lambda name: scores[name], default=None)
    return {"methods": methods, "control": control, "base": base, "recommended": recommended}


def summarize(measured: Sequence[Mapping[str, Mapping[str, float | None]]], name: str) -> dict[str, Any]:
    """Return {"mean", "std"} over seeds of every measure of a model, and its KS p-value by seed.

    A measure that one seed lacks is None, so that a method which diverged on a seed looks no better for it. The
    standard deviation is the sample's, 0 with one seed.
    """
    found: dict[str, Any] = {}
    for measure in MEASURES:
        values = [figures.get(name, {}).get(measure) for figures in measured]
        found[measure] = None
        if all(value is not None for value in values):
            std = statistics.stdev(values) if len(values) > 1 else 0.0
            found[measure] = {"mean": statistics.fmean(values), "std": std}
    quality = [figures.get(name, {}).get("ks_p") for figures in measured]
    found["ks_p"] = quality if any(value is not None for value in quality) else None
    return found


def means(summary: Mapping[str, Any] | None) -> dict[str, float | None] | None:
    """Return the mean of every measure, without the standard deviation; None for no summary."""
    if summary is None:
        return None
    return {measure: summary[measure] and summary[measure]["mean"] for measure in MEASURES}


def markdown(result: Mapping[str, Any], seeds: Sequence[int], trials: int) -> str:
    """Return compare.md: the table, the settings of each method, and the rule."""
    models = {"base": result["base"], "control": result["control"], **result["methods"]}
    models = {name: summary for name, summary in models.items() if summary is not None}
    base, control = means(result["base"]), means(result["control"])
    header = ["", *COLUMNS.values(), "KS p against the control", "forgotten", "kept", "score", "s a step"]
    lines = [f"| {' | '.join(header)} |", "|---|" + "---|" * (len(header) - 1)]
    for name, summary in models.items():
        cells = [f"**{name}**" if name == result["recommended"] else name]
        cells += [_cell(summary[measure]) for measure in COLUMNS]
        cells.append(", ".join("" if p is None else f"{p:.2g}" for p in summary["ks_p"] or ()))
        found = means(summary)
        shares: list[float | None] = [None] * 3
        if name in result["methods"] and found["familiarity"] is not None:
            shares = [forgotten(found, base, control), kept(found, base), score(found, base, control)]
        cells += map(number, shares)
        cells.append(number(summary.get("seconds_per_step")))
        lines.append(f"| {' | '.join(cells)} |")
    settings = [
        f"- {name}: " + " ".join(f"{option}={value}" for option, value in summary["settings"].items())
        for name, summary in result["methods"].items()
    ]
    told = f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}; at most {trials} trials a method."
    recommended = f"Recommended: **{result['recommended']}**."
    table, options = "\n".join(lines), "\n".join(settings)
    return "\n\n".join(["# Comparison of methods", told, table, recommended, RULE.strip(), "Settings:", options]) + "\n"


def _cell(summary: Mapping[str, float] | None) -> str:
    return "" if summary is None else f"{number(summary['mean'])} ± {number(summary['std'])}"


def number(value: float | None) -> str:
    """Return a figure with three significant digits, or with four decimals if it is small; nothing for no value."""
    if value is None:
        return ""
    return f"{value:.4f}" if abs(value) < 0.01 else f"{value:#.3g}".rstrip(".")
