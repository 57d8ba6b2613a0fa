"""Measures tracked during unlearning: probabilities of answers, perplexity, margin, and next tokens of prompts."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxforget.corpus.prompts import encode_prompts
from jaxforget.evals.familiarity import EncodedProbe, answer_probabilities, encode_probe
from jaxforget.evals.multiple_choice import Document, encode_choices, margins
from jaxforget.evals.probes import Probes, Prompts
from jaxforget.files import read_json, write_json
from jaxforget.lm.scoring import Scorer, perplexity, top_tokens
from jaxforget.manifest import changed
from jaxforget.train.types import Params

TOP = 8
MEASURES = ("familiarity", "retained", "perplexity", "margin")
# The inputs of the curve; the next tokens of a prompt depend on that prompt alone.
CURVE = {"evals.probes", "evals.heldout", "evals.heldout_blocks", "evals.choices"}
CHOICES = 256  # documents of multiple choice that are followed at most


@dataclasses.dataclass(frozen=True)
class Questions:
    """All questions and texts that a model is measured on, tokenized once.

    `pairs` are (token ids before, token ids of the choice) of every choice of every document in `choices`.
    """

    familiarity: tuple[EncodedProbe, ...]
    retained: tuple[EncodedProbe, ...]
    heldout: tuple[tuple[int, ...], ...]
    dynamics: tuple[str, ...]
    dynamics_ids: tuple[tuple[int, ...], ...]
    choices: tuple[Document, ...] = ()
    pairs: tuple[tuple[list[int], list[int]], ...] = ()


def make_questions(
    probes: Probes,
    prompts: Prompts,
    heldout: Sequence[np.ndarray],
    tokenizer: Any,
    choices: Sequence[Document] = (),
) -> Questions:
    """Tokenize the questions.

    Args:
      probes: questions with answers.
      prompts: whose next tokens are followed.
      heldout: blocks of token ids, int32 [n] each.
      tokenizer: the models'.
      choices: multiple choice about the target; the first `CHOICES` are followed.
    """
    choices = tuple(choices[:CHOICES])
    return Questions(
        familiarity=tuple(encode_probe(probe, tokenizer) for probe in probes.familiarity),
        retained=tuple(encode_probe(probe, tokenizer) for probe in probes.retained),
        heldout=tuple(tuple(int(i) for i in row) for row in heldout if len(row) > 1),
        dynamics=prompts.dynamics,
        dynamics_ids=tuple(map(tuple, encode_prompts(tokenizer, prompts.dynamics))),
        choices=choices,
        pairs=tuple(encode_choices(choices, tokenizer)) if choices else (),
    )


def measure(scorer: Scorer, params: Params, questions: Questions) -> dict[str, float]:
    """Return familiarity and retained (mean probability of whole answers), perplexity and margin, where asked for.

    The margin is the mean over documents of log p(right choice) - mean log p(wrong choice), nats.
    """
    measures = {}
    for name in ("familiarity", "retained"):
        if probes := getattr(questions, name):
            measures[name] = float(answer_probabilities(scorer, params, probes).mean())
    if questions.heldout:
        measures["perplexity"] = perplexity(scorer.log_probabilities(params, questions.heldout))
    if questions.choices:
        scores = scorer.log_probabilities(params, [[*before, *choice] for before, choice in questions.pairs])
        sums = [float(row[len(before) - 1 :].sum()) for row, (before, _) in zip(scores, questions.pairs, strict=True)]
        ends = np.cumsum([len(document.choices) for document in questions.choices])
        measures["margin"] = float(margins(questions.choices, np.split(np.array(sums), ends[:-1])).mean())
    return measures


def prompt_top_tokens(
    scorer: Scorer, params: Params, questions: Questions, tokenizer: Any
) -> list[list[dict[str, Any]]]:
    """Return a model's `TOP` most likely next tokens after every tracked prompt, as dynamics.json holds them."""
    if not questions.dynamics_ids:
        return []
    tops = top_tokens(scorer, params, questions.dynamics_ids, TOP)
    pieces = tokenizer.convert_ids_to_tokens
    return [[{"token": pieces(i), "p": round(p, 6)} for i, p in row] for row in tops]


class Watch:
    """Measures the student during training, and writes evals/curve.json and evals/dynamics.json of a run.

    The loop calls it with `(step, params)`. Rows of steps after `first_step` come from an interrupted attempt; they are
    removed and measured again. Rows of other questions are removed too: `inputs`, name -> fingerprint of the questions,
    is stored beside the rows.
    """

    def __init__(
        self,
        run: Path,
        scorer: Scorer,
        questions: Questions,
        tokenizer: Any,
        *,
        first_step: int,
        inputs: Mapping[str, str] | None = None,
    ):
        self._scorer, self._questions, self._tokenizer = scorer, questions, tokenizer
        self._curve, self._dynamics = run / "evals" / "curve.json", run / "evals" / "dynamics.json"
        self._inputs = dict(inputs or {})
        reuse = first_step and not changed_questions(run, self._inputs) & CURVE
        self._rows = [row for row in _stored(self._curve, "rows") if row["step"] <= first_step] if reuse else []
        old = {item["prompt"]: item for item in _stored(self._dynamics, "prompts")} if first_step else {}
        self._prompts = [
            {
                "prompt": prompt,
                "models": old.get(prompt, {}).get("models", {}),
                "steps": [s for s in old.get(prompt, {}).get("steps", []) if s["step"] <= first_step],
            }
            for prompt in questions.dynamics
        ]

    def reference(self, name: str, tops: list[list[dict[str, Any]]]) -> None:
        """Store the next tokens of another model (base, the control) beside the student's."""
        for item, top in zip(self._prompts, tops, strict=True):
            item["models"][name] = top

    def __call__(self, step: int, params: Params) -> dict[str, float]:
        """Measure the student after `step` steps."""
        measures = measure(self._scorer, params, self._questions)
        self._rows.append({"step": step, **{name: measures.get(name) for name in MEASURES}})
        tops = prompt_top_tokens(self._scorer, params, self._questions, self._tokenizer)
        for item, top in zip(self._prompts, tops, strict=True):
            item["steps"].append({"step": step, "top": top})
        if jax.process_index() == 0:
            write_json(self._curve, {"rows": self._rows, "inputs": self._inputs})
            if self._prompts:
                write_json(self._dynamics, {"prompts": self._prompts})
        return measures


def changed_questions(run: Path, inputs: Mapping[str, str]) -> set[str]:
    """Return the names of the inputs that changed since the run's curve was measured; none if it has no inputs."""
    path = run / "evals" / "curve.json"
    before = read_json(path).get("inputs") if path.is_file() else None
    return set(changed(before, inputs)) if before else set()


def measure_ends(
    run: Path,
    scorer: Scorer,
    questions: Questions,
    tokenizer: Any,
    ends: Mapping[int, Params],
    references: Mapping[str, list[list[dict[str, Any]]]],
    inputs: Mapping[str, str],
) -> None:
    """Measure curve.json and dynamics.json on changed questions, at the first and last step only.

    The models between them no longer exist.

    Args:
      run: the run's folder.
      scorer: of the models' architecture.
      questions: the questions.
      tokenizer: base's tokenizer.
      ends: step -> parameters: base at 0, the result at its step.
      references: next tokens of other models, by name.
      inputs: fingerprints of the questions.
    """
    curve, dynamics = run / "evals" / "curve.json", run / "evals" / "dynamics.json"
    rows = _stored(curve, "rows")
    if changed_questions(run, inputs) & CURVE:
        found = {step: measure(scorer, params, questions) for step, params in ends.items()}
        rows = [{"step": step, **{name: some.get(name) for name in MEASURES}} for step, some in found.items()]
    old = {item["prompt"]: item["steps"] for item in _stored(dynamics, "prompts")}
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
        write_json(curve, {"rows": rows, "inputs": dict(inputs)})


def _stored(path: Path, key: str) -> list[dict[str, Any]]:
    return read_json(path)[key] if path.is_file() else []
