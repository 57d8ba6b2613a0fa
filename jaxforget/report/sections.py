"""What each part of the page shows, as plain values for the template: pure functions of the artefacts."""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from markupsafe import Markup

from jaxforget.report.artefacts import (
    QUANTITIES,
    Completion,
    CurveRow,
    Dynamics,
    Measurement,
    Passage,
    model_order,
)
from jaxforget.report.dynamics import columns, dynamics_chart, plain, spelled
from jaxforget.report.plots import (
    Line,
    bucketed,
    chart,
    figure,
    interval,
    quantity_chart,
    step_ticks,
    ticks,
    tone_of,
)

PASSAGE_TOKENS = 600


def facts(
    config: Mapping[str, Any],
    manifest: Mapping[str, Any],
    metrics: Mapping[str, Sequence[Mapping[str, float]]],
) -> list[tuple[str, str]]:
    """(name, value) pairs for the head of the page; what is not known is left out.

    Args:
        config: the run's settings under dotted keys.
    """
    named = (("Model", "model.folder"), ("Text to forget", "corpus.path"), ("Anchors", "anchors.path"))
    found = [(name, config.get(key)) for name, key in named] + [("Method", method(config))]
    for stage, rows in metrics.items():
        tokens = sum(int(_finite(row.get("tokens")) or 0) for row in rows)
        found.append((f"{stage.capitalize()} steps", f"{int(rows[-1]['step']):,} ({tokens:,} tokens)"))
    found += [
        ("Started", _when(manifest.get("started"))),
        ("Devices", _devices(manifest)),
        ("Git", manifest.get("git")),
    ]
    return [(name, _plain(value)) for name, value in found if value not in (None, "")]


def _devices(manifest: Mapping[str, Any]) -> Any:
    """What the stages ran on, and which of them where they differ; what the last command had where no stage says."""
    found = manifest.get("stages")
    names: dict[str, list[str]] = {}
    for name, stage in found.items() if isinstance(found, Mapping) else ():
        devices = stage.get("devices") if isinstance(stage, Mapping) else None
        names.setdefault(_plain(devices) if devices else "not noted", []).append(str(name))
    if len(names) < 2:
        return next((devices for devices in names if devices != "not noted"), manifest.get("devices"))
    return "; ".join(f"{devices} ({', '.join(stages)})" for devices, stages in names.items())


def _when(value: Any) -> str | None:
    """An ISO time to the minute, in UTC; anything else as it stands."""
    if value is None:
        return None
    try:
        moment = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def method(config: Mapping[str, Any]) -> str | None:
    """The recipe in a line, from the settings that make it; None where they are unknown."""
    if "targets.kind" not in config:
        return None
    labels = f"{config['targets.kind']} of equation 1, alpha {config.get('targets.alpha')}"
    if not config.get("retain.weight"):
        return f"{labels}; no retain term, as in the paper"
    return f"{labels}; retain term of weight {config['retain.weight']} on {config.get('retain.path')}"


def _plain(value: Any) -> str:
    """A value of unknown form as a short line."""
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
    """Package versions by name."""
    found = manifest.get("versions")
    return sorted((str(k), _plain(v)) for k, v in found.items()) if isinstance(found, Mapping) else []


def stages(manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Stages and their seconds, in the order in which they ran."""
    found = manifest.get("stages")
    if not isinstance(found, Mapping):
        return []
    seconds = ((name, stage.get("seconds")) for name, stage in found.items() if isinstance(stage, Mapping))
    return [(str(name), f"{s:,.1f} s") for name, s in seconds if isinstance(s, int | float)]


def outdated(manifest: Mapping[str, Any]) -> bool:
    """Whether the result was trained again since the models were last measured."""
    found = manifest.get("stages")
    measured = found.get("eval") if isinstance(found, Mapping) else None
    if not isinstance(measured, Mapping) or not isinstance(measured.get("inputs"), Mapping):
        return False
    trained = found.get("forget")
    return not isinstance(trained, Mapping) or measured["inputs"].get("forget") != trained.get("fingerprint")


def chosen(summary: Iterable[Measurement], metric: str) -> tuple[str, dict[str, float]]:
    """(convention, value by model) of a metric: a probability's convention if there is one, else the first.

    The curves are mean probabilities, and figures of two conventions never share a picture.
    """
    rows = [row for row in summary if row.metric == metric and row.value is not None]
    conventions = list(dict.fromkeys(row.convention for row in rows))
    if not conventions:
        return "", {}
    convention = next((c for c in conventions if "prob" in c.lower()), conventions[0])
    return convention, {row.model: row.value for row in rows if row.convention == convention}


def headline(summary: Sequence[Measurement], curve: Sequence[CurveRow]) -> list[dict[str, Any]]:
    """The three quantities before and after, each with bars by model and a sentence that reads them."""
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
        bars = [(model, values[model], max(0.0, 100 * values[model] / top)) for model in model_order(values)]
        cards.append(
            {
                "name": quantity,
                "convention": convention,
                "before": values.get("base"),
                "after": values.get("unlearned"),
                "bars": bars,
                "reading": reading(quantity, values),
            }
        )
    return cards


def reading(quantity: str, values: Mapping[str, float]) -> str:
    """The figures of one quantity in a sentence or two, with no more praise than they carry."""
    base, after, control = values.get("base"), values.get("unlearned"), values.get("control")
    if base is None or after is None:
        return "The base or the unlearned model was not measured, so there is no before and after."
    if quantity == "familiarity":
        if control is None:
            return "Of the target's facts. There is no control here to say what zero knowledge scores."
        above = after - control
        where = f"{figure(abs(above))} {'above' if above >= 0 else 'below'} it"
        verdict = " Knowledge of it remains." if above > 0.03 else ""
        scores = f"A control that never read the target scores {figure(control)}"
        return f"{scores}; the unlearned model is {where} on these prompts.{verdict}"
    if quantity == "retained":
        kept = after / base if base else 0.0
        verdict = "" if kept >= 0.95 else " The rest is harm to knowledge that was meant to stay."
        return f"{kept:.0%} of the base model's score on other knowledge is kept.{verdict}"
    change = after / base - 1 if base else 0.0
    way = "no different" if abs(change) < 0.0005 else f"{abs(change):.1%} {'higher' if change > 0 else 'lower'}"
    return f"On general text that was never trained on: {way}. Lower is better."


def curves(rows: Sequence[CurveRow] | None, summary: Sequence[Measurement]) -> list[dict[str, Any]] | None:
    """A chart and a table a quantity, base and control as dashed lines; None where nothing was evaluated."""
    if rows is None:
        return None
    found = []
    for quantity in QUANTITIES:
        along = [{"step": row.step, quantity: getattr(row, quantity)} for row in rows]
        if not any(row[quantity] is not None for row in along):
            continue
        _, values = chosen(summary, quantity)
        by_model = {m: [{"step": 0, quantity: values[m]}] for m in ("base", "control") if m in values}
        drawn = quantity_chart(quantity, by_model | {"unlearned": along})
        table = [(f"{row['step']:,}", figure(row[quantity])) for row in along]
        found.append({"name": quantity, "chart": Markup(drawn), "table": table})
    return found


_MEASURES = (
    ("loss", "Loss"),
    ("retain_loss", "Retain loss"),
    ("grad_norm", "Gradient norm"),
    ("learning_rate", "Learning rate"),
)


def training(metrics: Mapping[str, Sequence[Mapping[str, float]]] | None) -> list[dict[str, Any]] | None:
    """Charts of each stage's metrics, and its speed."""
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
            line = Line(bucketed(points), "unlearned" if stage == "forget" else "reinforced", figure(ys[-1]))
            drawn = chart(
                [line], step_ticks(x for x, _ in points), ticks(low, max(ys)), x_label="steps", height=190,
                described=f"{title} of the {stage} stage against steps, {figure(ys[0])} to {figure(ys[-1])}",
            )  # fmt: skip
            charts.append((title, Markup(drawn)))
        speeds = sorted(s for row in rows if (s := _finite(row.get("tokens_per_second"))) is not None)
        found.append(
            {
                "name": stage,
                "charts": charts,
                "steps": len(rows),
                "tokens": sum(int(_finite(row.get("tokens")) or 0) for row in rows),
                "speed": speeds[len(speeds) // 2] if speeds else None,
            }
        )
    return found


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or value in (float("inf"), float("-inf")) else float(value)


def dynamics(prompts: Sequence[Dynamics] | None) -> list[dict[str, Any]] | None:
    """A chart a prompt, and the most likely token of every column."""
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


def completions(prompts: Sequence[Completion] | None) -> list[dict[str, Any]] | None:
    """Each prompt with its continuations in the order of the method's models."""
    if prompts is None:
        return None
    return [{"prompt": p.prompt, "texts": [(m, p.completions[m]) for m in model_order(p.completions)]} for p in prompts]


def passage(found: Passage | None) -> dict[str, Any] | None:
    """Each token over the label that was trained in its place: the label of the position before it."""
    if found is None:
        return None
    words, label = [], None
    for token in found.tokens[:PASSAGE_TOKENS]:
        text = plain(token.text)
        below = None if label is None else plain(label)
        words.append(
            {
                "text": text.strip() or ("⏎" if "\n" in text else "·"),
                "space": text[:1].isspace(),
                "break": "\n" in text,
                "label": None if below is None else below.strip() or ("⏎" if "\n" in below else "·"),
                "same": below is not None and below.strip() == text.strip(),
                "anchor": token.anchor,
            }
        )
        label = token.label
    return {
        "document": found.document,
        "words": words,
        "left_out": max(0, len(found.tokens) - PASSAGE_TOKENS),
    }


def evidence(summary: Sequence[Measurement] | None) -> list[dict[str, Any]] | None:
    """Rows by metric and convention: figures of two conventions never stand in one column."""
    if summary is None:
        return None
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for row in summary:
        groups.setdefault((row.metric, row.convention), []).append(row)
    found = []
    # Conventions of one metric stand side by side, metrics in the order in which they were measured.
    metrics = list(dict.fromkeys(metric for metric, _ in groups))
    for (metric, convention), rows in sorted(groups.items(), key=lambda item: metrics.index(item[0][0])):
        order = model_order(row.model for row in rows)
        rows = sorted(rows, key=lambda row: order.index(row.model))
        ends = [x for row in rows for x in (row.value, row.low, row.high) if x is not None]
        domain = (min(0.0, *ends), max(ends)) if ends else (0.0, 1.0)
        if ends and max(ends) <= 1 and min(ends) >= 0:
            domain = (0.0, 1.0)
        shown = []
        for row in rows:
            picture = ""
            if row.value is not None:
                picture = Markup(interval(row.value, row.low, row.high, domain, tone_of(row.model)))
            bounds = "" if row.low is None or row.high is None else f"{figure(row.low)} to {figure(row.high)}"
            shown.append((row.model, figure(row.value), bounds, "" if row.n is None else f"{row.n:,}", picture))
        found.append({"metric": metric, "convention": convention, "rows": shown, "axis": domain})
    return found
