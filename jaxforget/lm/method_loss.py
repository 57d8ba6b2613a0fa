"""The loss of a method and its gradient on given rows: what one training step computes, for notebooks and checks."""

import functools
import numbers
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxforget.corpus.translations import COLUMNS, FILLS
from jaxforget.errors import UserError
from jaxforget.lm.forward import make_forward
from jaxforget.lm.model import Model, materialize
from jaxforget.sharding import put_rows, row_shards
from jaxforget.train.objectives import NextToken, Objective, Retain, check_settings, find_method
from jaxforget.train.step import StepOptions, make_loss
from jaxforget.train.types import Frozen, Params

Rows = Mapping[str, Any]
ALONE = {"nll": "nll", "retain_kl": "kl"}  # retain terms by themselves
TRANSLATED = ("translated", "position_map", "suppress_ids", "suppress_from")  # the arrays of a `Translation`
TILE = 1024


def method_loss(
    method: str,
    student: Model,
    base: Model | None = None,
    *,
    forget: Rows | None = None,
    retain: Rows | None = None,
    alternate: Rows | None = None,
    reinforced: Model | None = None,
    retain_loss: str = "nll",
    retain_weight: float = 1.0,
    **settings: float,
) -> tuple[float, Params]:
    """Return the loss of a method and its gradient with respect to `student.params`, as in a run's first step.

    Both are computed in fp32. The loss is the mean over the forget rows or their counted tokens, plus `retain_weight`
    times the mean over the counted tokens of the retain rows. It is in nats where a method's loss is a log-probability
    or a divergence; that of "rmu" is a squared distance of hidden states, that of "pdu" a squared distance of logits.
    The multiplier of "pdu" is 0, as in the first step of a run: the retain loss is part of the value, and not of the
    gradient.

    Rows are {"tokens": int [B, S], "used": bool [B, S], False on padding, "answer": bool [B, S], True on tokens whose
    prediction counts}; "used" and "answer" may be left out and are then True. Rows of methods with generic targets also
    hold the arrays of `jaxforget.translate`, one row for each block; those of "whp_average" hold the columns of
    `jaxforget.corpus.translations.Translations` instead, and need no retain rows beside them.

    Args:
      method: a name of `jaxforget.train.objectives.METHODS`, or "nll" or "retain_kl" for the retain rows alone.
      student: the model that is differentiated. Weights of a lower precision are converted to fp32 first.
      base: the frozen reference, where the method or the retain term needs one.
      forget: the rows to forget.
      retain: the rows to keep; None for no retain term.
      alternate: alternative answers to the forget rows, for "dpo"; other methods do not read them.
      reinforced: the reinforced model, for generic targets.
      retain_loss: "nll" or "kl". A run's option retain.loss has the default "kl".
      retain_weight: weight of the retain loss beside the forget loss.
      **settings: of the method, as beta=0.1.

    Returns:
      The loss, and its gradient in the tree of `student.params` with whole kernels, fp32.

    Raises:
      UserError: an unknown method or setting, a method without a loss, rows of a wrong shape, an argument that the
        method does not take, or a model or rows that it needs.
    """
    given = {"forget": forget, "alternate": alternate, **settings}
    if (retain_loss, retain_weight) != ("nll", 1.0) and (retain is None or method in ALONE):
        raise UserError(f"method {method!r}: retain_loss and retain_weight are of a retain term beside a forget loss")
    if method in ALONE:
        if unused := [name for name, value in given.items() if value is not None]:
            raise UserError(f"method {method!r}: takes no {unused[0]}=; it is the loss of the retain rows alone")
        if retain is None:
            raise UserError(f"method {method!r}: needs retain=ROWS")
        objective: Objective = NextToken()
        retain_loss = ALONE[method]
    else:
        kind = find_method(method, "method")
        if not kind.trains:
            raise UserError(f"method {method!r}: computes weights without training, so it has no loss")
        objective = kind(**_options(kind, settings), **check_settings(kind, _plain(kind, settings)))
        if forget is None:
            raise UserError(f"method {method!r}: needs forget=ROWS")
    terms = ("nll",) if objective.constrained else ("nll", "kl")
    if retain_loss not in terms:
        raise UserError(f"retain_loss={retain_loss!r}: give {' or '.join(terms)} with method {method!r}")
    check_number("retain_weight", retain_weight)
    term = None if retain is None else Retain(float(retain_weight), retain_loss)
    if objective.needs_retain and term is None:
        raise UserError(f"method {method!r}: needs retain=ROWS")
    if objective.alternates and alternate is None:
        raise UserError(f"method {method!r}: needs alternate=ROWS, other answers to the same prompts")
    if (objective.uses_base or (term is not None and term.uses_base)) and base is None:
        raise UserError(f"method {method!r}: needs base=, the frozen reference")
    needed = COLUMNS if objective.translations else TRANSLATED if objective.base_input == "translated" else ()
    if forget is not None and (missing := [name for name in needed if name not in forget]):
        raise UserError(f"method {method!r}: needs forget rows with {', '.join(needed)}; they lack {missing[0]}")
    if objective.translations and np.shape(forget["translations"])[1:2] != (objective.translations,):
        raise UserError(f"method {method!r}: give translations={np.shape(forget['translations'])[1]}, as the rows have")
    if objective.translations and retain is not None:
        raise UserError(f"method {method!r}: takes no retain rows here; add the gradient of 'nll' or 'retain_kl'")
    if objective.uses_reinforced and reinforced is None:
        raise UserError(f"method {method!r}: needs reinforced=, the reinforced model")
    batch = _batch(student, None if method in ALONE else forget, retain, alternate)
    compiled = _compiled(student.module.clone(dtype=jnp.float32), student.mesh, objective, term)
    dual = jnp.float32(0.0) if objective.constrained else None
    frozen = Frozen(
        base=None if base is None else materialize(base).params,
        reinforced=None if reinforced is None else materialize(reinforced).params,
    )
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), materialize(student).params)
    losses, gradients = compiled(params, frozen, put_rows(batch, student.mesh), dual)
    return float(losses[1] if method in ALONE else losses.sum()), gradients


@functools.lru_cache(maxsize=32)
def _compiled(module: Any, mesh: Any, objective: Objective, retain: Retain | None):
    # Cached, so that one method on many rows compiles once.
    loss = make_loss(make_forward(module), objective, StepOptions(tile=TILE), mesh, retain)
    return jax.jit(lambda *given: loss(*given)[:2])


def check_number(name: str, value: Any) -> None:
    """Raise `UserError` unless `value`, an argument called `name`, is a finite number of 0 or more."""
    if not (isinstance(value, numbers.Real) and 0 <= value < float("inf")):
        raise UserError(f"{name}={value!r}: give a finite number, 0 or more")


def _options(kind: type[Objective], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a run takes from other sections of its configuration, or from its prepared blocks."""
    found = {name: value for name, value in settings.items() if name not in _plain(kind, settings)}
    for name, instead in (("suppress", "give never=, the tokens that no target may name"), ("cached", "leave it out")):
        if name in found:
            raise UserError(f"{name}={found[name]!r}: is an option of a run; {instead}")
    if "alpha" in found:
        check_number("alpha", found["alpha"])
    tokens = {name: tuple(int(token) for token in found[name]) for name in ("never", "terms") if name in found}
    if "terms" in kind.__dataclass_fields__ and len(tokens.get("terms", ())) < 2:
        raise UserError(f"method {kind.name!r}: needs terms=, two or more tokens that begin a term of the text")
    return found | tokens


def _plain(kind: type[Objective], settings: Mapping[str, Any]) -> dict[str, Any]:
    shared = {name for name in kind.__dataclass_fields__ if name not in {field.name for field in kind.settings()}}
    return {name: value for name, value in settings.items() if name not in shared}


def _batch(model: Model, forget: Rows | None, retain: Rows | None, alternate: Rows | None) -> dict[str, np.ndarray]:
    """Return one batch of both kinds of rows, padded to one length and to rows that the devices can share."""
    kinds = [(rows, flag) for rows, flag in ((forget, 0.0), (retain, 1.0)) if rows is not None]
    arrays = [_checked(model, rows, "retain" if flag else "forget") for rows, flag in kinds]
    others = [] if alternate is None else [_checked(model, alternate, "alternate")]
    if others and len(others[0]["tokens"]) != len(arrays[0]["tokens"]):
        raise UserError("alternate: has another number of rows than forget; give one alternative a row")
    length = max(len(part["tokens"][0]) for part in (*arrays, *others))
    count = sum(len(part["tokens"]) for part in arrays)
    shards = row_shards(model.mesh)
    rows = -(-count // shards) * shards

    def joined(parts: list[dict[str, np.ndarray]], name: str, dtype: type, fill: int = 0) -> np.ndarray:
        width = length if name in ("tokens", "used", "answer", "position_map") else max(p[name].shape[1] for p in parts)
        whole = np.full((rows, width), fill, dtype)
        first = 0
        for part in parts:
            value = part[name]
            whole[first : first + len(value), : value.shape[1]] = value
            first += len(value)
        return whole

    batch = {
        "tokens": joined(arrays, "tokens", np.int32),
        "weights": joined(arrays, "used", np.float32),
        "answer": joined(arrays, "answer", np.float32),
        "retain": np.zeros(rows, np.float32),
    }
    first = 0
    for part, (_, flag) in zip(arrays, kinds, strict=True):
        batch["retain"][first : first + len(part["tokens"])] = flag
        first += len(part["tokens"])
    if others:
        batch["alternate"] = joined(others, "tokens", np.int32)
        batch["alternate_weights"] = joined(others, "used", np.float32)
        batch["alternate_answer"] = joined(others, "answer", np.float32)
    if forget is not None and "translated" in forget:
        for part in arrays:
            # A retain row is not translated: its map is the identity.
            part.setdefault("translated", part["tokens"])
            part.setdefault("position_map", np.broadcast_to(np.arange(part["tokens"].shape[1]), part["tokens"].shape))
            part.setdefault("suppress_ids", np.full((len(part["tokens"]), 1), -1))
            part.setdefault("suppress_from", np.full((len(part["tokens"]), 1), -1))
        fills = {"translated": 0, "position_map": -1, "suppress_ids": -1, "suppress_from": -1}
        batch |= {name: joined(arrays, name, np.int32, fill) for name, fill in fills.items()}
    if forget is not None and "translations" in forget:
        for name, fill in FILLS.items():
            value = arrays[0][name]
            batch[name] = np.pad(value, [(0, rows - len(value)), *[(0, 0)] * (value.ndim - 1)], constant_values=fill)
        batch["position_map"] = np.where(batch["weights"] > 0, np.arange(length), -1).astype(np.int32)
    return batch


def _checked(model: Model, rows: Rows, name: str) -> dict[str, np.ndarray]:
    """Return rows as arrays of one shape."""
    if "tokens" not in rows:
        raise UserError(f"{name}: has no tokens; rows are {{'tokens', 'used', 'answer'}}")
    found = {key: np.asarray(value) for key, value in rows.items()}
    tokens = found["tokens"]
    if tokens.ndim != 2 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
        raise UserError(f"{name}['tokens']: shape {tokens.shape}, dtype {tokens.dtype}; give int [rows, positions]")
    known = {"tokens", "used", "answer", *TRANSLATED, *COLUMNS}
    if unknown := sorted(set(found) - known):
        raise UserError(f"{name}: unknown {unknown[0]!r}; rows have {', '.join(sorted(known))}")
    for key in ("used", "answer"):
        found.setdefault(key, np.ones(tokens.shape, bool))
        if found[key].shape != tokens.shape:
            raise UserError(f"{name}[{key!r}]: shape {found[key].shape}, but tokens have {tokens.shape}")
    real = tokens[found["used"].astype(bool)]
    if real.size and (real.min() < 0 or real.max() >= model.config.vocab_size):
        raise UserError(f"{name}['tokens']: {real.min()} to {real.max()}; {model.folder} has {model.config.vocab_size}")
    return found
