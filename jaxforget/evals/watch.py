"""What is followed while a model forgets: the curve of three measures, and the next tokens of chosen prompts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxforget.evals.familiarity import Answered, answer_probabilities, encode_probe, perplexity, top_tokens
from jaxforget.evals.probes import Probes, Prompts
from jaxforget.files import read_json, write_json
from jaxforget.lm.prompts import encode_prompts
from jaxforget.lm.scoring import Scorer
from jaxforget.manifest import changed
from jaxforget.train.types import Params

TOP = 8
MEASURES = ("familiarity", "retained", "perplexity")
# The questions that the curve rests on; the next tokens of a prompt rest on that prompt alone.
CURVE = {"evals.probes", "evals.heldout", "evals.heldout_blocks"}


@dataclasses.dataclass(frozen=True)
class Questions:
    """Everything a model is asked, tokenised once."""

    familiarity: tuple[Answered, ...]
    retained: tuple[Answered, ...]
    heldout: tuple[tuple[int, ...], ...]
    dynamics: tuple[str, ...]
    dynamics_ids: tuple[tuple[int, ...], ...]


def make_questions(probes: Probes, prompts: Prompts, heldout: Sequence[np.ndarray], tokenizer: Any) -> Questions:
    """Tokenises probes and prompts; `heldout` are blocks of token ids, int32 [n], each."""
    return Questions(
        familiarity=tuple(encode_probe(probe, tokenizer) for probe in probes.familiarity),
        retained=tuple(encode_probe(probe, tokenizer) for probe in probes.retained),
        heldout=tuple(tuple(int(i) for i in row) for row in heldout if len(row) > 1),
        dynamics=prompts.dynamics,
        dynamics_ids=tuple(map(tuple, encode_prompts(tokenizer, prompts.dynamics))),
    )


def measure(scorer: Scorer, params: Params, questions: Questions) -> dict[str, float]:
    """familiarity and retained (mean answer-token probability) and perplexity, of those that have questions."""
    measures = {}
    for name in ("familiarity", "retained"):
        if probes := getattr(questions, name):
            measures[name] = float(answer_probabilities(scorer, params, probes).mean())
    if questions.heldout:
        measures["perplexity"] = perplexity(scorer.log_probabilities(params, questions.heldout))
    return measures


def prompt_top_tokens(
    scorer: Scorer, params: Params, questions: Questions, tokenizer: Any
) -> list[list[dict[str, Any]]]:
    """A model's next tokens after every prompt that is followed: the `TOP` likeliest, as dynamics.json holds them."""
    if not questions.dynamics_ids:
        return []
    tops = top_tokens(scorer, params, questions.dynamics_ids, TOP)
    pieces = tokenizer.convert_ids_to_tokens
    return [[{"token": pieces(i), "p": round(p, 6)} for i, p in row] for row in tops]


class Watch:
    """Called with `(step, params)` by the loop; keeps evals/curve.json and evals/dynamics.json of a run up to date.

    Rows of steps after `first_step` come from an attempt that was cut short; they are dropped and measured again. Rows
    that other questions gave are dropped too: `asked`, name -> hash, says which these are and stands beside the rows.
    """

    def __init__(
        self,
        run: Path,
        scorer: Scorer,
        questions: Questions,
        tokenizer: Any,
        *,
        first_step: int,
        asked: Mapping[str, str] | None = None,
    ):
        self._scorer, self._questions, self._tokenizer = scorer, questions, tokenizer
        self._curve, self._dynamics = run / "evals" / "curve.json", run / "evals" / "dynamics.json"
        self._asked = dict(asked or {})
        kept = first_step and not moved(run, self._asked) & CURVE
        self._rows = [row for row in _old(self._curve, "rows") if row["step"] <= first_step] if kept else []
        old = {item["prompt"]: item for item in _old(self._dynamics, "prompts")} if first_step else {}
        self._prompts = [
            {
                "prompt": prompt,
                "models": old.get(prompt, {}).get("models", {}),
                "steps": [s for s in old.get(prompt, {}).get("steps", []) if s["step"] <= first_step],
            }
            for prompt in questions.dynamics
        ]

    def reference(self, name: str, tops: list[list[dict[str, Any]]]) -> None:
        """Notes another model's `likeliest` tokens beside the student's: base's, the control's."""
        for item, top in zip(self._prompts, tops, strict=True):
            item["models"][name] = top

    def __call__(self, step: int, params: Params) -> dict[str, float]:
        """Measures the student after `step` steps."""
        measures = measure(self._scorer, params, self._questions)
        self._rows.append({"step": step, **{name: measures.get(name) for name in MEASURES}})
        tops = prompt_top_tokens(self._scorer, params, self._questions, self._tokenizer)
        for item, top in zip(self._prompts, tops, strict=True):
            item["steps"].append({"step": step, "top": top})
        if jax.process_index() == 0:
            write_json(self._curve, {"rows": self._rows, "asked": self._asked})
            if self._prompts:
                write_json(self._dynamics, {"prompts": self._prompts})
        return measures


def moved(run: Path, asked: Mapping[str, str]) -> set[str]:
    """Which of the questions are others than those that the run's curve was measured with; none of a curve that does
    not say."""
    path = run / "evals" / "curve.json"
    before = read_json(path).get("asked") if path.is_file() else None
    return set(changed(before, asked)) if before else set()


def measure_ends(
    run: Path,
    scorer: Scorer,
    questions: Questions,
    tokenizer: Any,
    ends: Mapping[int, Params],
    references: Mapping[str, list[list[dict[str, Any]]]],
    asked: Mapping[str, str],
) -> None:
    """Brings curve.json and dynamics.json up to other questions, where the models between the ends are gone.

    Args:
      ends: step -> the model there: base at 0, the result at its step.
      references: by name, another model's `likeliest`.
      asked: what the questions are now.
    """
    curve, dynamics = run / "evals" / "curve.json", run / "evals" / "dynamics.json"
    rows = _old(curve, "rows")
    if moved(run, asked) & CURVE:
        found = {step: measure(scorer, params, questions) for step, params in ends.items()}
        rows = [{"step": step, **{name: some.get(name) for name in MEASURES}} for step, some in found.items()]
    old = {item["prompt"]: item["steps"] for item in _old(dynamics, "prompts")}
    tops = {step: prompt_top_tokens(scorer, params, questions, tokenizer) for step, params in ends.items()}
    prompts = [
        {
            "prompt": prompt,
            "models": {name: some[i] for name, some in references.items()},
            "steps": old.get(prompt) or [{"step": step, "top": some[i]} for step, some in tops.items()],
        }
        for i, prompt in enumerate(questions.dynamics)
    ]
    if jax.process_index() == 0:
        if prompts:
            write_json(dynamics, {"prompts": prompts})
        else:
            dynamics.unlink(missing_ok=True)
        write_json(curve, {"rows": rows, "asked": dict(asked)})


def _old(path: Path, key: str) -> list[dict[str, Any]]:
    return read_json(path)[key] if path.is_file() else []
