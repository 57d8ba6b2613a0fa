"""Rows of evidence: one figure of one model under one convention."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxforget.errors import UserError
from jaxforget.evals.intervals import mean_interval

# Suffixes of the metric and the convention of a difference to the control's figure.
ABOVE, MINUS_CONTROL = "_above_control", "; minus the control's"
EARLIER = "questions of an earlier request"  # in the convention of familiarity with a text forgotten before
COLUMNS = ("metric", "convention", "model", "value", "low", "high", "n")


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure of one model.

    Attributes:
      metric: the name of the figure.
      convention: how it is computed; figures of two conventions are never compared.
      model: the model's name in the tables.
      value: the figure; None where a file holds no finite number.
      low: lower bound of the 95 % interval, or None.
      high: upper bound of the 95 % interval, or None.
      n: number of items that the figure is taken over.
      items: the value of every item, in an order that all models share; only for figures that are compared with the
        control's item by item, because a high value would be a leak.
      items_of: a fingerprint of the items where they depend on the model; rows of other items are not compared.
    """

    metric: str
    convention: str
    model: str
    value: float | None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    items: tuple[float, ...] | None = None
    items_of: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the row as the tables hold it: without its items."""
        return {name: getattr(self, name) for name in COLUMNS}


def make_row(
    metric: str,
    convention: str,
    model: str,
    value: float,
    n: int,
    interval: tuple[float, float] | None = None,
    items: Any = None,
) -> Row:
    """Return a row of `n` items; `interval` is its 95 % interval, where it has one."""
    low, high = (None, None) if interval is None else (float(interval[0]), float(interval[1]))
    each = None if items is None else tuple(float(item) for item in items)
    return Row(metric, convention, model, float(value), low, high, int(n), each)


def mean_row(metric: str, convention: str, model: str, values: Any, *, compared: bool = False) -> Row:
    """Return the mean of `values` [items] with its 95 % bootstrap interval over the items.

    Args:
      metric: the name of the figure.
      convention: how it is computed.
      model: the model's name.
      values: one figure an item, float [items].
      compared: keep the items, so that `above_control` compares them with the control's.
    """
    values = np.asarray(values, np.float64)
    interval = mean_interval(values)
    return make_row(metric, convention, model, values.mean(), len(values), interval, values if compared else None)


def mean_and_worst_rows(metric: str, convention: str, model: str, values: np.ndarray) -> list[Row]:
    """Return the mean over variants of each question, and the highest of them.

    Args:
      metric: the name of the figure; `_worst` is appended for the highest.
      convention: how a value is computed.
      model: the model's name.
      values: fp64 [variants, questions].
    """
    if len(values) == 1:
        return [mean_row(metric, convention, model, values[0], compared=True)]
    count = f"{len(values)} variants"
    mean, worst = f"{convention}; mean over {count}", f"{convention}; the highest of {count}"
    return [
        mean_row(metric, mean, model, values.mean(axis=0), compared=True),
        mean_row(f"{metric}_worst", worst, model, values.max(axis=0), compared=True),
    ]


def above_control(rows: Sequence[Row], control: Sequence[Row]) -> list[Row]:
    """Return how far every row that has items lies above the control's row of the same metric and convention.

    The interval is a 95 % bootstrap over items. It draws item by item, so what makes an item easy for both models does
    not count. A metric that the control lacks (the weights of another architecture) is left out.

    Raises:
      ValueError: the two rows have different numbers of items.
    """
    others = {(row.metric, row.convention): row for row in control}
    found = []
    for row in rows:
        other = others.get((row.metric, row.convention))
        if row.items is None or other is None or other.items is None or row.items_of != other.items_of:
            continue
        if len(row.items) != len(other.items):
            raise ValueError(f"{row.metric}: not the same questions of {row.model} and the control")
        convention = row.convention + MINUS_CONTROL
        found.append(mean_row(row.metric + ABOVE, convention, row.model, np.subtract(row.items, other.items)))
    return found


def check_convention(convention: str, known: Sequence[str]) -> None:
    """Raise `UserError` for a convention that is not among `known`."""
    if convention not in known:
        raise UserError(f"convention={convention!r}: the conventions are {' and '.join(known)}")
