"""Parts of the page as plain values for the template: pure functions of a run's files."""

import datetime
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from markupsafe import Markup

from jaxforget.evals.rows import Row
from jaxforget.report.artefacts import FOLLOWED, QUANTITIES, CurveRow, Dynamics, model_order
from jaxforget.report.dynamics import columns, dynamics_chart, spelled
from jaxforget.report.plots import Line, bucketed, chart, quantity_chart, trade_off
from jaxforget.report.tones import figure, share, step_ticks, ticks
from jaxforget.report.verdict import change, chosen

ANCHORS = 400  # rows of the table of anchors


def facts(
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[tuple[str, str]]:
    """Return (name, value) pairs that say what was run; unknown values are left out.

    Args:
      config: the run's settings under dotted keys.
      manifest: manifest.json.
      metrics: training steps by stage.
    """
    named = (("Model", "model.folder"), ("Text to forget", "corpus.path"), ("Anchors", "anchors.path"))
    found = [(name, config.get(key)) for name, key in named] + [("Method", method(config))]
    for stage, rows in metrics.items():
        tokens = sum(int(_finite(row.get("tokens")) or 0) for row in rows)
        found.append((f"{stage.capitalize()} steps", f"{len(rows):,} ({tokens:,} tokens)"))
    found += [
        ("Started", _when(manifest.get("started"))),
        ("Devices", _devices(manifest)),
        ("Git", manifest.get("git")),
    ]
    return [(name, _plain(value)) for name, value in found if value not in (None, "")]


def _devices(manifest: Mapping[str, Any]) -> Any:
    """Return the devices of the stages, named where stages differ; without any, those of the last command."""
    found = manifest.get("stages")
    names: dict[str, list[str]] = {}
    for name, stage in found.items() if isinstance(found, Mapping) else ():
        if name == "report":  # it computes nothing
            continue
        devices = stage.get("devices") if isinstance(stage, Mapping) else None
        names.setdefault(_plain(devices) if devices else "not noted", []).append(str(name))
    if len(names) < 2:
        return next((devices for devices in names if devices != "not noted"), manifest.get("devices"))
    return "; ".join(f"{devices} ({', '.join(stages)})" for devices, stages in names.items())


def _when(value: Any) -> str | None:
    """Return an ISO time to the minute, in UTC; anything else as it is."""
    if value is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def method(config: Mapping[str, Any]) -> str | None:
    """Return the recipe in one line; None where its settings are unknown."""
    if "method" not in config:
        return None
    settings = ", ".join(f"{k.split('.', 1)[1]} {v}" for k, v in config.items() if k.startswith("objective."))
    named = f"{config['method']}" + (f" ({settings})" if settings else "")
    if not config.get("retain.weight"):
        return f"{named}; no retain term"
    return f"{named}; retain term of weight {config['retain.weight']:g} on {config.get('retain.path')}"


def near(place: Any) -> Any:
    """Return the last two parts of an absolute path, which a reader knows it by; anything else as it is."""
    return "/".join(Path(place).parts[-2:]) if isinstance(place, str) and place.startswith("/") else place


def _plain(value: Any) -> str:
    """Return a value of unknown form as a short line."""
    if isinstance(value, Mapping):
        if "commit" in value:
            return f"{str(value['commit'])[:10]}{', with changes' if value.get('changed') else ''}"
        if "kind" in value:
            among = "" if value.get("processes", 1) == 1 else f", {value['processes']} processes"
            return f"{value.get('count', 1)} × {value['kind']}{among}"
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        counts = [(item, len(list(same))) for item, same in groupby(_plain(v) for v in value)]
        return ", ".join(f"{n} × {item}" if n > 1 else item for item, n in counts)
    return str(value)


def versions(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return package versions by name."""
    found = manifest.get("versions")
    return sorted((str(k), _plain(v)) for k, v in found.items()) if isinstance(found, Mapping) else []


def cost(
    manifest: Mapping[str, Any], metrics: Mapping[str, Sequence[Mapping[str, float]]], price: float | None = None
) -> dict[str, Any] | None:
    """Return the cost of every stage and their sum: seconds, peak memory, and steps and speed where it trains.

    Args:
      manifest: manifest.json.
      metrics: training steps by stage.
      price: dollars of one device for an hour; None leaves prices out.
    """
    found = manifest.get("stages")
    if not isinstance(found, Mapping):
        return None
    rows, total, dollars = [], 0.0, 0.0
    for name, stage in found.items():
        seconds = stage.get("seconds") if isinstance(stage, Mapping) else None
        if not isinstance(seconds, int | float):
            continue
        devices = stage.get("devices") or manifest.get("devices")
        count = devices.get("count", 1) if isinstance(devices, Mapping) else 1
        spent = seconds / 3600 * count * (price or 0.0)
        total, dollars = total + seconds, dollars + spent
        steps = metrics.get(name, ())
        tokens = sum(int(_finite(row.get("tokens")) or 0) for row in steps)
        speed = _median([_finite(row.get("tokens_per_second")) for row in steps])
        peak = stage.get("peak_bytes")
        rows.append(
            {
                "stage": str(name),
                "seconds": f"{seconds:,.1f}",
                "steps": f"{len(steps):,}" if steps else "",
                "tokens": f"{tokens:,}" if tokens else "",
                "speed": "" if speed is None else figure(speed),
                "peak": f"{peak / 2**30:.1f}" if isinstance(peak, int | float) else "",
                "price": f"{spent:.2f}",
            }
        )
    if not rows:
        return None
    return {
        "rows": rows,
        "total": f"{total:,.1f}",
        "peak": any(row["peak"] for row in rows),
        "price": None if price is None else f"{dollars:,.2f}",
        "at": price,
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def outdated(manifest: Mapping[str, Any]) -> bool:
    """Return True if the result was trained again after the models were last measured."""
    found = manifest.get("stages")
    measured = found.get("eval") if isinstance(found, Mapping) else None
    if not isinstance(measured, Mapping) or not isinstance(measured.get("inputs"), Mapping):
        return False
    trained, undone = found.get("forget"), found.get("undo")
    if not isinstance(trained, Mapping) or measured["inputs"].get("forget") != trained.get("fingerprint"):
        return True
    undone = undone if isinstance(undone, Mapping) else {}
    if "undo" in measured["inputs"]:
        return measured["inputs"]["undo"] != undone.get("fingerprint")
    # Measured without the stage undo: before that stage ran for the first time, or after it was switched off.
    return undone.get("finished", "") > measured.get("finished", "")


def headline(summary: Sequence[Row], curve: Sequence[CurveRow]) -> list[dict[str, Any]]:
    """Return the three quantities before and after, each with bars by model and a sentence that reads them."""
    cards = []
    for quantity in QUANTITIES:
        convention, values = chosen(summary, quantity)
        if not values:
            along = [getattr(row, quantity) for row in curve if getattr(row, quantity) is not None]
            if along:
                values = {"base": along[0], "unlearned": along[-1]}
                convention = "first and last evaluation during training"
        if not values:
            continue
        top = max(1.0 if quantity != "perplexity" else 0.0, *values.values()) or 1.0
        shown = share if quantity != "perplexity" else figure
        bars = [(model, shown(values[model]), max(0.0, 100 * values[model] / top)) for model in model_order(values)]
        cards.append(
            {
                "name": quantity,
                "convention": convention,
                "before": shown(values.get("base")),
                "after": shown(values.get("unlearned")),
                "bars": bars,
                "reading": reading(quantity, values),
            }
        )
    return cards


def reading(quantity: str, values: Mapping[str, float]) -> str:
    """Return the figures of one quantity in a sentence or two."""
    base, after, control = values.get("base"), values.get("unlearned"), values.get("control")
    if base is None or after is None:
        return "" if base is not None else "The base or the unlearned model was not measured."
    if quantity == "familiarity":
        asked = "Probability of the right answers about the text to forget."
        if control is None:
            return f"{asked} There is no control to say what zero knowledge scores."
        above = after - control
        where = f"{share(abs(above))} {'above' if above >= 0 else 'below'} it"
        remains = " Knowledge of it remains." if above > 0.03 else ""
        scores = f"A control that never read the text scores {share(control)}"
        return f"{asked} {scores}; the unlearned model is {where}.{remains}"
    if quantity == "retained":
        asked = "Probability of the right answers about other things."
        kept = after / base if base else 0.0
        if kept >= 1:
            return f"{asked} All of base's score is kept."
        harm = "" if kept >= 0.95 else " The rest is harm to knowledge that was meant to stay."
        return f"{asked} {kept:.1%} of base's score is kept.{harm}"
    rise = after / base - 1 if base else 0.0
    way = "no different" if abs(rise) < 0.0005 else change(rise)
    return f"Surprise at general text that was never trained on: {way}. Lower is better."


def scatter(summary: Sequence[Row], tones: Mapping[str, str]) -> Markup | None:
    """Return the scatter of forgetting against retained knowledge; None where either was not measured."""
    known, kept = chosen(summary, "familiarity")[1], chosen(summary, "retained")[1]
    points = {model: (known[model], kept[model]) for model in model_order(known) if model in kept}
    return Markup(trade_off(points, tones)) if points else None


def curves(
    rows_by_model: Mapping[str, Sequence[CurveRow]] | None, summary: Sequence[Row]
) -> list[dict[str, Any]] | None:
    """Return a chart and a table a quantity, with base and control as dashed lines; None where nothing was measured.

    Args:
      rows_by_model: evaluations during training by name of the student.
    """
    if rows_by_model is None:
        return None
    found = []
    for quantity in FOLLOWED:
        along = {m: [{"step": r.step, quantity: getattr(r, quantity)} for r in rows]
                 for m, rows in rows_by_model.items()}  # fmt: skip
        along = {m: rows for m, rows in along.items() if any(row[quantity] is not None for row in rows)}
        if not along:
            continue
        _, values = chosen(summary, quantity)
        by_model = {m: [{"step": 0, quantity: values[m]}] for m in ("base", "control") if m in values}
        drawn = quantity_chart(quantity, by_model | along)
        steps = sorted({row["step"] for rows in along.values() for row in rows})
        at = {m: {row["step"]: row[quantity] for row in rows} for m, rows in along.items()}
        table = [(f"{step:,}", [figure(at[m].get(step)) for m in along]) for step in steps]
        found.append({"name": quantity, "chart": Markup(drawn), "models": list(along), "table": table})
    return found


_MEASURES = (
    ("loss", "Loss"),
    ("retain_loss", "Retain loss"),
    ("grad_norm", "Gradient norm"),
    ("learning_rate", "Learning rate"),
)


def training(metrics: Mapping[str, Sequence[Mapping[str, float]]] | None) -> list[dict[str, Any]] | None:
    """Return charts of each stage's metrics, and its speed."""
    if metrics is None:
        return None
    found = []
    for stage, rows in metrics.items():
        charts = []
        for key, title in _MEASURES:
            points = [(row["step"], _finite(row.get(key))) for row in rows]
            ys = [y for _, y in points if y is not None]
            if not ys:
                continue
            low = min(ys) if key == "loss" and min(ys) > 0.5 * max(ys) else min(0.0, *ys)
            line = Line(bucketed(points), "reinforced" if stage == "reinforce" else "unlearned", figure(ys[-1]))
            drawn = chart(
                [line], step_ticks(x for x, _ in points), ticks(low, max(ys)), x_label="steps", height=190,
                described=f"{title} of the {stage} stage against steps, {figure(ys[0])} to {figure(ys[-1])}",
            )  # fmt: skip
            charts.append((title, Markup(drawn)))
        found.append(
            {
                "name": stage,
                "charts": charts,
                "steps": len(rows),
                "tokens": sum(int(_finite(row.get("tokens")) or 0) for row in rows),
                "speed": _median([_finite(row.get("tokens_per_second")) for row in rows]),
            }
        )
    return found


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or value in (float("inf"), float("-inf")) else float(value)


def dynamics(prompts: Sequence[Dynamics] | None) -> list[dict[str, Any]] | None:
    """Return a chart a prompt, and the most likely tokens of every column."""
    if prompts is None:
        return None
    found = []
    for prompt in prompts:
        drawn = dynamics_chart(prompt)
        table = []
        for _, name, top in columns(prompt):
            ranked = sorted(top, key=lambda t: -t.p)[:3]
            table.append((name, [(spelled(t.token), figure(t.p)) for t in ranked]))
        found.append({"prompt": prompt.prompt, "chart": Markup(drawn) if drawn else None, "table": table})
    return found


def anchors(found: Any, diagnosis: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return the dictionary: every anchor with its translations and the evidence for it, and how much it covers.

    Args:
      found: `corpus.dictionary.Anchors`, or None.
      diagnosis: diagnosis.json, or None.
    """
    if found is None:
        return None
    rows = []
    for anchor, generic in list(found.entries.items())[:ANCHORS]:
        told = found.evidence.get(anchor, {})
        shown = {k: v for k, v in told.items() if k != "count" and isinstance(v, str | int | float)}
        evidence = ", ".join(f"{k} {figure(v) if isinstance(v, float) else v}" for k, v in shown.items())
        rows.append((anchor, ", ".join(generic), told.get("count", ""), evidence))
    said = [f"{len(found.entries):,} anchors"]
    if diagnosis is not None:
        occurrences, coverage = diagnosis.get("occurrences"), diagnosis.get("coverage")
        if isinstance(occurrences, int):
            said.append(f"{occurrences:,} occurrences in the target")
        if isinstance(coverage, int | float):
            said.append(f"{coverage:.0%} of its positions follow one closely")
        if never := diagnosis.get("never"):
            said.append(f"{len(never):,} that never occur")
    return {"rows": rows, "said": "; ".join(said), "left_out": max(0, len(found.entries) - ANCHORS)}
