"""Readers of the files in a run's folder, which check them before anything is drawn.

Every reader returns None where the file is missing, and raises `UserError` naming the file and the place where it is
malformed, so that no page is drawn from figures that were only half understood.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pydantic
import yaml

from jaxforget.config.load import INSIDE
from jaxforget.errors import UserError
from jaxforget.evals.rows import ABOVE, MINUS_CONTROL, Row
from jaxforget.files import check, parse_json, read_model

QUANTITIES = ("familiarity", "retained", "perplexity")
FOLLOWED = (*QUANTITIES, "margin")  # during training
ATTACKING = ("prompting", "soft_prompt", "weights", "relearning")
MODEL_ORDER = ("base", "reinforced", "paper", "unlearned", "control")
REMEDY = "delete the file and make it again"


def _finite(value: Any) -> Any:
    """Return None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _known(values: Any) -> Any:
    """Return an object without its numbers that are missing or not finite."""
    return {k: v for k, v in values.items() if _finite(v) is not None} if isinstance(values, dict) else values


def _whole_text(text: Any) -> Any:
    """Return a text without halves of surrogate pairs, which models can write and UTF-8 cannot hold."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text) if isinstance(text, str) else text


String = Annotated[str, pydantic.BeforeValidator(_whole_text), pydantic.Strict()]
Whole = Annotated[int, pydantic.Strict()]
Figure = Annotated[float, pydantic.Strict()]
Number = Annotated[Figure | None, pydantic.BeforeValidator(_finite)]
Numbers = Annotated[dict[String, Figure], pydantic.BeforeValidator(lambda v: {} if v is None else _known(v))]
Probability = Annotated[Figure, pydantic.BeforeValidator(lambda v: 0.0 if _finite(v) is None else v)]


@dataclass(frozen=True)
class CurveRow:
    """One evaluation during training; a quantity that was not measured is None."""

    step: Whole
    familiarity: Number = None
    retained: Number = None
    perplexity: Number = None
    margin: Number = None


@dataclass(frozen=True)
class TokenProbability:
    """A next token as the vocabulary spells it, and its probability."""

    token: String
    p: Probability = 0.0


@dataclass(frozen=True)
class Dynamics:
    """The most likely next tokens of one prompt: those of fixed models by name, those of the student by step."""

    prompt: str
    models: dict[str, tuple[TokenProbability, ...]]
    steps: dict[int, tuple[TokenProbability, ...]]


@dataclass(frozen=True)
class Completion:
    """One prompt, continued by each model."""

    prompt: String
    completions: dict[String, String]


@dataclass(frozen=True)
class PassageToken:
    """One token of the target.

    Attributes:
      text: the token as the vocabulary spells it.
      label: the token that training makes this position predict; None where the position is not trained.
      anchor: True if the token belongs to an anchor.
      probability: by model, that of the token given those before it; empty for the first token.
    """

    text: String
    label: String | None = None
    anchor: bool = False
    probability: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class Passage:
    """A block of the target with its labels."""

    document: String
    tokens: tuple[PassageToken, ...]


@dataclass(frozen=True)
class AuditedWord:
    """A word of the target, its probability under the model and under the reference (control or base)."""

    text: String
    model: Probability = 0.0
    reference: Probability = 0.0
    leaked: bool = False


@dataclass(frozen=True)
class LeakingWord:
    """A word of the target summed over its places; `leaked` counts those at which it leaks."""

    word: String
    count: Whole
    leaked: Whole
    model: Probability = 0.0
    reference: Probability = 0.0


@dataclass(frozen=True)
class AuditedPassage:
    """A passage of the target by its number; passages are ranked by `excess`."""

    number: Whole
    words: tuple[AuditedWord, ...]
    excess: Probability = 0.0


@dataclass(frozen=True)
class Audit:
    """Words and passages of the target, the worst first; `against` names the reference."""

    against: String
    words: tuple[LeakingWord, ...]
    passages: tuple[AuditedPassage, ...]


@dataclass(frozen=True)
class Question:
    """A question with the probability of its whole answer by model; `kind` is "familiarity" or "retained"."""

    kind: String
    prompt: String
    answer: String
    probability: Numbers = field(default_factory=dict)


@dataclass(frozen=True)
class _TopAt:
    step: Whole
    top: tuple[TokenProbability, ...]


@dataclass(frozen=True)
class _Prompt:
    prompt: String
    models: dict[String, tuple[TokenProbability, ...]]
    steps: tuple[_TopAt, ...]


@dataclass(frozen=True)
class _Row:
    metric: String
    convention: String
    model: String
    value: Number = None
    low: Number = None
    high: Number = None
    n: Whole | None = None


@dataclass(frozen=True)
class _Step:
    stage: String
    step: Whole


def model_order(names: Iterable[str]) -> list[str]:
    """Return the distinct model names in the order of `MODEL_ORDER`; other names follow in input order."""
    names = list(dict.fromkeys(names))
    return [m for m in MODEL_ORDER if m in names] + [m for m in names if m not in MODEL_ORDER]


def _read(path: Path, schema: Any, key: str | None = None) -> Any:
    """Return a JSON file, or the list under `key` in it, as `schema`; None where there is no file."""
    if not path.exists():
        return None
    if key is None:
        return read_model(path, schema, remedy=REMEDY)
    file = pydantic.create_model("File", **{key: (tuple[schema, ...], ...)})
    return getattr(read_model(path, file, remedy=REMEDY), key)


def read_curve(run: Path) -> tuple[CurveRow, ...] | None:
    """Read evals/curve.json; the rows are in the order of their steps."""
    rows = _read(run / "evals/curve.json", CurveRow, "rows")
    return None if rows is None else tuple(sorted(rows, key=lambda row: row.step))


def read_dynamics(run: Path) -> tuple[Dynamics, ...] | None:
    """Read evals/dynamics.json."""
    prompts = _read(run / "evals/dynamics.json", _Prompt, "prompts")
    if prompts is None:
        return None
    return tuple(Dynamics(p.prompt, p.models, dict(sorted((at.step, at.top) for at in p.steps))) for p in prompts)


def read_completions(run: Path) -> tuple[Completion, ...] | None:
    """Read evals/completions.json."""
    return _read(run / "evals/completions.json", Completion, "prompts")


def read_passage(run: Path) -> Passage | None:
    """Read evals/passage.json."""
    return _read(run / "evals/passage.json", Passage)


def read_audit(run: Path) -> Audit | None:
    """Read evals/audit/unlearned.json."""
    return _read(run / "evals/audit/unlearned.json", Audit)


def read_attack_metrics(run: Path) -> frozenset[str]:
    """Return the metrics of the suites that attack."""
    return frozenset(metric for (metric, _), suite in read_suites(run).items() if suite in ATTACKING)


def read_suites(run: Path) -> dict[tuple[str, str], str]:
    """Return (metric, convention) -> name of the suite that measured it, from evals/rows/SUITE/*.json.

    The differences to the control, which stand in the table only, belong to the suite of their metric.
    """
    found: dict[tuple[str, str], str] = {}
    for path in sorted((run / "evals/rows").glob("*/*.json")):
        for row in _read(path, _Row, "rows") or ():
            found.setdefault((row.metric, row.convention), path.parent.name)
            found.setdefault((row.metric + ABOVE, row.convention + MINUS_CONTROL), path.parent.name)
    return found


def read_questions(run: Path) -> tuple[Question, ...] | None:
    """Read evals/questions.json."""
    return _read(run / "evals/questions.json", Question, "questions")


def read_summary(run: Path) -> tuple[Row, ...] | None:
    """Read evals/summary.json."""
    rows = _read(run / "evals/summary.json", _Row, "rows")
    return None if rows is None else tuple(Row(**vars(row)) for row in rows)


def read_metrics(run: Path) -> dict[str, list[dict[str, float]]] | None:
    """Read the training steps in metrics.jsonl, by stage and in the order of steps.

    Evaluations between the steps (kind "eval") are left out. If a resumed run did a step twice, the later line counts.
    A last line without its newline was cut when the process was killed, and is left out.
    """
    path = run / "metrics.jsonl"
    if not path.exists():
        return None
    stages: dict[str, dict[int, dict[str, float]]] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        if not line.strip():
            continue
        value = parse_json(line, f"{path}: line {number}", remedy="remove the line", lines=False)
        record = check(value, _Step, f"{path}: line {number}", remedy="remove the line")
        if value.get("kind", "train") != "train":
            continue
        figures = {k: v for k, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        stages.setdefault(record.stage, {})[record.step] = figures
    return {stage: [steps[n] for n in sorted(steps)] for stage, steps in stages.items()}


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Read manifest.json; only that it is an object is checked."""
    return read_object(run / "manifest.json")


def read_object(path: Path) -> dict[str, Any] | None:
    """Read any JSON object."""
    return _read(path, dict[str, Any])


def read_config(run: Path) -> tuple[str, dict[str, Any]] | None:
    """Read config.yaml: its text, and its values under dotted keys."""
    path = run / "config.yaml"
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}: {where}not YAML; fix it or run the chain again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no settings; fix it or run the chain again")
    values = flatten(value)
    # A run's own configuration writes its folder as ${out}; a reader wants the place.
    shown = {
        k: v.replace(INSIDE, str(run), 1) if isinstance(v, str) and v.startswith(INSIDE) else v
        for k, v in values.items()
    }
    return text, shown


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings under dotted keys: {"a": {"b": 1}} -> {"a.b": 1}; lists stay values."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
