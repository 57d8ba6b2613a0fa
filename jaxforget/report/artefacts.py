"""Readers of the files in a run's folder, which check them before anything is drawn.

Every reader returns None where the file is missing, and raises `UserError` naming the file and the place where it is
malformed, so that no page is drawn from figures that were only half understood.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from jaxforget.config.load import INSIDE
from jaxforget.errors import UserError
from jaxforget.evals.rows import ABOVE, MINUS_CONTROL, Row
from jaxforget.files import read_json

QUANTITIES = ("familiarity", "retained", "perplexity")
ATTACKING = ("prompting", "weights", "relearning")
MODEL_ORDER = ("base", "reinforced", "paper", "unlearned", "control")


@dataclass(frozen=True)
class CurveRow:
    """One evaluation during training; a quantity that was not measured is None."""

    step: int
    familiarity: float | None
    retained: float | None
    perplexity: float | None


@dataclass(frozen=True)
class TokenProbability:
    """A next token as it stands in the vocabulary, and its probability."""

    token: str
    p: float


@dataclass(frozen=True)
class Dynamics:
    """The most likely next tokens of one prompt: those of fixed models by name, those of the student by step."""

    prompt: str
    models: dict[str, tuple[TokenProbability, ...]]
    steps: dict[int, tuple[TokenProbability, ...]]


@dataclass(frozen=True)
class Completion:
    """One prompt, continued by each model."""

    prompt: str
    completions: dict[str, str]


@dataclass(frozen=True)
class PassageToken:
    """One token of the target.

    Attributes:
      text: the token as it stands in the vocabulary.
      label: the token that training makes this position predict; None where the position is not trained.
      anchor: whether the token belongs to an anchor.
      probability: by model, that of the token given those before it; empty for the first token.
    """

    text: str
    label: str | None
    anchor: bool
    probability: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Passage:
    """A block of the target with its labels."""

    document: str
    tokens: tuple[PassageToken, ...]


@dataclass(frozen=True)
class AuditedWord:
    """A word of the target, its probability under the model and under the reference (control or base)."""

    text: str
    model: float
    reference: float
    leaked: bool


@dataclass(frozen=True)
class AuditedPassage:
    """A passage of the target by its number; passages are ranked by `excess`."""

    number: int
    excess: float
    words: tuple[AuditedWord, ...]


@dataclass(frozen=True)
class Question:
    """A question with the probability of its whole answer by model; `kind` is "familiarity" or "retained"."""

    kind: str
    prompt: str
    answer: str
    probability: Mapping[str, float]


def model_order(names: Iterable[str]) -> list[str]:
    """Return the distinct model names: the known ones in the order of the method, then others as they came."""
    names = list(dict.fromkeys(names))
    return [m for m in MODEL_ORDER if m in names] + [m for m in names if m not in MODEL_ORDER]


class _Record:
    """A JSON object with its place in the file, which every error message names."""

    def __init__(self, path: Path, place: str, value: Any):
        if not isinstance(value, dict):
            raise self._error(path, place, f"is {_kind(value)}, not an object")
        self.path, self.place, self.value = path, place, value

    @staticmethod
    def _error(path: Path, place: str, fault: str) -> UserError:
        return UserError(f"{path}: {place or 'the file'} {fault}; delete the file and make it again")

    def _at(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def text(self, key: str) -> str:
        value = self.value.get(key)
        if not isinstance(value, str):
            raise self._error(self.path, self._at(key), f"is {_kind(value)}, not text")
        return value

    def optional_text(self, key: str) -> str | None:
        return None if self.value.get(key) is None else self.text(key)

    def number(self, key: str) -> float | None:
        """Return the number, or None if it is missing, null or not finite."""
        value = self.value.get(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(self.path, self._at(key), f"is {_kind(value)}, not a number")
        return float(value) if math.isfinite(value) else None

    def integer(self, key: str) -> int:
        value = self.number(key)
        if value is None or value != int(value):
            raise self._error(self.path, self._at(key), "is not a whole number")
        return int(value)

    def records(self, key: str) -> list["_Record"]:
        value = self.value.get(key)
        if not isinstance(value, list):
            raise self._error(self.path, self._at(key), f"is {_kind(value)}, not a list")
        return [_Record(self.path, f"{self._at(key)}[{i}]", item) for i, item in enumerate(value)]

    def numbers(self, key: str) -> dict[str, float]:
        """Return the finite numbers of an object by name; an absent object has none."""
        if self.value.get(key) is None:
            return {}
        inner = self.record(key)
        return {name: value for name in inner.value if (value := inner.number(name)) is not None}

    def record(self, key: str) -> "_Record":
        return _Record(self.path, self._at(key), self.value.get(key))


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    return {dict: "an object", list: "a list", str: "text", bool: "true or false"}.get(type(value), "a number")


def _open(path: Path) -> _Record | None:
    return _Record(path, "", read_json(path)) if path.exists() else None


def read_curve(run: Path) -> tuple[CurveRow, ...] | None:
    """Read evals/curve.json; the rows are in the order of their steps."""
    root = _open(run / "evals/curve.json")
    if root is None:
        return None
    rows = [CurveRow(r.integer("step"), *(r.number(q) for q in QUANTITIES)) for r in root.records("rows")]
    return tuple(sorted(rows, key=lambda row: row.step))


def _top(record: _Record, key: str) -> tuple[TokenProbability, ...]:
    return tuple(TokenProbability(r.text("token"), r.number("p") or 0.0) for r in record.records(key))


def read_dynamics(run: Path) -> tuple[Dynamics, ...] | None:
    """Read evals/dynamics.json."""
    root = _open(run / "evals/dynamics.json")
    if root is None:
        return None
    found = []
    for prompt in root.records("prompts"):
        models = prompt.record("models")
        steps = {r.integer("step"): _top(r, "top") for r in prompt.records("steps")}
        tops = {name: _top(models, name) for name in models.value}
        found.append(Dynamics(prompt.text("prompt"), tops, dict(sorted(steps.items()))))
    return tuple(found)


def read_completions(run: Path) -> tuple[Completion, ...] | None:
    """Read evals/completions.json."""
    root = _open(run / "evals/completions.json")
    if root is None:
        return None
    found = []
    for prompt in root.records("prompts"):
        texts = prompt.record("completions")
        found.append(Completion(prompt.text("prompt"), {name: texts.text(name) for name in texts.value}))
    return tuple(found)


def read_passage(run: Path) -> Passage | None:
    """Read evals/passage.json."""
    root = _open(run / "evals/passage.json")
    if root is None:
        return None
    tokens = (
        PassageToken(t.text("text"), t.optional_text("label"), bool(t.value.get("anchor")), t.numbers("probability"))
        for t in root.records("tokens")
    )
    return Passage(root.text("document"), tuple(tokens))


def read_audit(run: Path) -> tuple[str, list[dict[str, Any]], list[AuditedPassage]] | None:
    """Read evals/audit/unlearned.json.

    Returns:
      The name of the reference, words {"word", "count", "leaked", "model", "reference"} and passages; the worst first.
    """
    root = _open(run / "evals/audit/unlearned.json")
    if root is None:
        return None

    def numbers(record: _Record) -> dict[str, float]:
        return {name: record.number(name) or 0.0 for name in ("model", "reference")}

    words = [
        {"word": w.text("word"), "count": w.integer("count"), "leaked": w.integer("leaked"), **numbers(w)}
        for w in root.records("words")
    ]
    passages = []
    for passage in root.records("passages"):
        spelled = (
            AuditedWord(w.text("text"), leaked=bool(w.value.get("leaked")), **numbers(w))
            for w in passage.records("words")
        )
        passages.append(AuditedPassage(passage.integer("number"), passage.number("excess") or 0.0, tuple(spelled)))
    return root.text("against"), words, passages


def read_attack_metrics(run: Path) -> frozenset[str]:
    """Return the metrics of the suites that attack."""
    return frozenset(metric for (metric, _), suite in read_suites(run).items() if suite in ATTACKING)


def read_suites(run: Path) -> dict[tuple[str, str], str]:
    """Return (metric, convention) -> name of the suite that measured it, from evals/rows/SUITE/*.json.

    The differences to the control, which stand in the table only, belong to the suite of their metric.
    """
    found: dict[tuple[str, str], str] = {}
    for path in sorted((run / "evals/rows").glob("*/*.json")):
        root = _open(path)
        for row in root.records("rows") if root is not None else ():
            metric, convention = row.text("metric"), row.text("convention")
            found.setdefault((metric, convention), path.parent.name)
            found.setdefault((metric + ABOVE, convention + MINUS_CONTROL), path.parent.name)
    return found


def read_questions(run: Path) -> tuple[Question, ...] | None:
    """Read evals/questions.json."""
    root = _open(run / "evals/questions.json")
    if root is None:
        return None
    return tuple(
        Question(q.text("kind"), q.text("prompt"), q.text("answer"), q.numbers("probability"))
        for q in root.records("questions")
    )


def read_summary(run: Path) -> tuple[Row, ...] | None:
    """Read evals/summary.json."""
    root = _open(run / "evals/summary.json")
    if root is None:
        return None
    return tuple(
        Row(
            r.text("metric"),
            r.text("convention"),
            r.text("model"),
            r.number("value"),
            r.number("low"),
            r.number("high"),
            None if r.value.get("n") is None else r.integer("n"),
        )
        for r in root.records("rows")
    )


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
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {number}: not JSON: {error.msg}; remove the line") from None
        record = _Record(path, f"line {number}", value)
        if record.value.get("kind", "train") != "train":
            continue
        figures = {k: v for k, v in value.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        stages.setdefault(record.text("stage"), {})[record.integer("step")] = figures
    return {stage: [steps[n] for n in sorted(steps)] for stage, steps in stages.items()}


def read_manifest(run: Path) -> dict[str, Any] | None:
    """Read manifest.json; only that it is an object is checked."""
    return read_object(run / "manifest.json")


def read_object(path: Path) -> dict[str, Any] | None:
    """Read any JSON object."""
    root = _open(path)
    return None if root is None else root.value


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
        raise UserError(f"{path}: holds {_kind(value)}, not settings; fix it or run the chain again")
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
