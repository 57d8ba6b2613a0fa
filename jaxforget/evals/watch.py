"""What is followed while a model forgets: the curve of three measures, and the next tokens of chosen prompts."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxforget.evals.familiarity import Answered, answer_probabilities, encode_probe, perplexity, top_tokens
from jaxforget.evals.probes import Probes, Prompts
from jaxforget.evals.scoring import Scorer
from jaxforget.files import read_json, write_json
from jaxforget.train.types import Params

TOP = 8


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
        dynamics_ids=tuple(tuple(tokenizer(prompt)["input_ids"]) for prompt in prompts.dynamics),
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


def likeliest(scorer: Scorer, params: Params, questions: Questions, tokenizer: Any) -> list[list[dict[str, Any]]]:
    """A model's next tokens after every prompt that is followed: the `TOP` likeliest, as dynamics.json holds them."""
    if not questions.dynamics_ids:
        return []
    tops = top_tokens(scorer, params, questions.dynamics_ids, TOP)
    pieces = tokenizer.convert_ids_to_tokens
    return [[{"token": pieces(i), "p": round(p, 6)} for i, p in row] for row in tops]


class Watch:
    """Called with `(step, params)` by the loop; keeps evals/curve.json and evals/dynamics.json of a run up to date.

    Rows of steps after `first_step` come from an attempt that was cut short; they are dropped and measured again.
    """

    def __init__(self, run: Path, scorer: Scorer, questions: Questions, tokenizer: Any, *, first_step: int):
        self._scorer, self._questions, self._tokenizer = scorer, questions, tokenizer
        self._curve, self._dynamics = run / "evals" / "curve.json", run / "evals" / "dynamics.json"
        self._rows = [row for row in _old(self._curve, "rows") if row["step"] <= first_step] if first_step else []
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
        self._rows.append(
            {"step": step, **{name: measures.get(name) for name in ("familiarity", "retained", "perplexity")}}
        )
        tops = likeliest(self._scorer, params, self._questions, self._tokenizer)
        for item, top in zip(self._prompts, tops, strict=True):
            item["steps"].append({"step": step, "top": top})
        if jax.process_index() == 0:
            write_json(self._curve, {"rows": self._rows})
            if self._prompts:
                write_json(self._dynamics, {"prompts": self._prompts})
        return measures


def _old(path: Path, key: str) -> list[dict[str, Any]]:
    return read_json(path)[key] if path.is_file() else []
