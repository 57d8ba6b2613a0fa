"""What every attack gives: one value a question, of every model alike, and how far it lies above the control's."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxforget.evals.evidence import mean_evidence

ABOVE = "_above_control"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An attack on one model.

    Attributes:
      attack: its name, which becomes the metric.
      convention: what a value is.
      values: fp64 [questions]; the same questions in the same order of every model.
      leak: whether a high value is a leak; the others show what an attack cost, and are read against no control.
    """

    attack: str
    convention: str
    values: np.ndarray
    leak: bool = True

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return dataclasses.asdict(self) | {"values": [float(value) for value in self.values]}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Outcome":
        """What `as_json` gave."""
        return cls(**{**value, "values": np.array(value["values"], np.float64)})


def outcome_rows(outcomes: Sequence[Outcome], control: Sequence[Outcome] | None, model: str) -> list[dict[str, Any]]:
    """Rows of evidence: each attack's mean, and with a `control` the mean difference to the same attack on it.

    Both intervals are 95 % bootstraps over questions; the difference's draws question by question, so that what makes
    a question easy for both models takes no part in it.
    """
    rows = [mean_evidence(outcome.attack, outcome.convention, model, outcome.values) for outcome in outcomes]
    others = {} if control is None else {other.attack: other for other in control}
    for outcome in outcomes:
        # An attack that the control cannot undergo (another architecture's weights) is read against nothing.
        if outcome.leak and (other := others.get(outcome.attack)) is not None:
            if len(outcome.values) != len(other.values):
                raise ValueError(f"{outcome.attack}: not the same questions of {model} and the control")
            convention = f"{outcome.convention}; minus the control's under the same attack"
            rows.append(mean_evidence(outcome.attack + ABOVE, convention, model, outcome.values - other.values))
    return rows


def leak_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of a table: an attack a line, a model a column, and each model's distance above the control in brackets."""
    plain = {(r["metric"], r["model"]): r["value"] for r in rows if not r["metric"].endswith(ABOVE)}
    above = {(r["metric"].removesuffix(ABOVE), r["model"]): r["value"] for r in rows if r["metric"].endswith(ABOVE)}
    attacks = list(dict.fromkeys(metric for metric, _ in plain))
    models = list(dict.fromkeys(model for _, model in plain))
    width = max((len(attack) for attack in attacks), default=0)
    lines = [" ".join([" " * width, *(f"{model:>17}" for model in models)])] if rows else []
    for attack in attacks:
        cells = []
        for model in models:
            value, more = plain.get((attack, model)), above.get((attack, model))
            said = "" if value is None else f"{value:.4f}" + ("" if more is None else f" ({more:+.4f})")
            cells.append(f"{said:>17}")
        lines.append(" ".join([f"{attack:{width}}", *cells]))
    return lines


def brought_back(rows: Sequence[dict[str, Any]], plain: str = "plain") -> list[str]:
    """Lines: the attacks under which a model lies further above the control than when asked plainly, the worst first.

    Further means that the 95 % intervals of the two distances are apart. A model of which the rows give no plain
    distance is left out.
    """
    above: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        if row["metric"].endswith(ABOVE):
            above.setdefault(row["model"], {})[row["metric"].removesuffix(ABOVE)] = row
    lines = []
    for model, distances in above.items():
        if plain not in distances:
            continue
        asked = distances[plain]
        worse = [(row["value"], attack) for attack, row in distances.items() if row["low"] > asked["high"]]
        found = ", ".join(f"{attack} {value:+.4f}" for value, attack in sorted(worse, reverse=True))
        lines.append(
            f"{model}: brought back, above the control ({plain} {asked['value']:+.4f}): {found or 'no attack'}"
        )
    return lines


def repeated(name: str, convention: str, values: np.ndarray) -> list[Outcome]:
    """The mean over variants of a question, and the worst of them; `values` fp64 [variants, questions]."""
    if len(values) == 1:
        return [Outcome(name, convention, values[0])]
    count = f"{len(values)} variants"
    return [
        Outcome(name, f"{convention}; mean over {count}", values.mean(axis=0)),
        Outcome(f"{name}_worst", f"{convention}; the highest of {count}", values.max(axis=0)),
    ]
