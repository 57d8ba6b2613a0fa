"""Suite `tofu`: probability, ROUGE, truth ratio, model utility and forget quality of TOFU (Maini et al., 2401.06121).

The conventions `tofu` (the benchmark's released code) and `open-unlearning` share the paper's measures (its
section 2.2; the formulas stand at the functions below). As in both:

- A prompt is `template` with the question in it, and the answer follows directly. The answer's tokens are those beyond
  the number that the prompt has alone. One end token counts as part of the answer, whether or not the tokenizer appends
  it; the prompt itself is never closed.
- ROUGE is ROUGE-L recall, stemmer on, of a greedy answer.
- The published files of real authors and world facts have no paraphrased answer; the answer itself replaces it.

They differ in lengths: `tofu` cuts prompt and answer at 200 tokens together, generated tokens included;
open-unlearning cuts text at 512 and generates 200. open-unlearning also adds 1e-10 to divisors, which changes the
ratios of models that give answers almost no probability. `tofu` published figures over the first 300 questions of a
set: `limit`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.corpus.prompts import encode_prompt, encode_prompts
from jaxforget.errors import UserError
from jaxforget.evals.intervals import bootstrap
from jaxforget.evals.records import Texts, published_file, read_records
from jaxforget.evals.rows import Row, check_convention, make_row, mean_row
from jaxforget.evals.scorers import cached_generation, scorer_of
from jaxforget.evals.suite import RunInputs, Suite
from jaxforget.evals.text_scores import decode, rouge_l
from jaxforget.files import Text
from jaxforget.lm.completion import completer
from jaxforget.lm.generate import Complete
from jaxforget.lm.model import Model
from jaxforget.lm.scoring import Scorer
from jaxforget.train.types import Params

SPLITS = ("forget", "retain", "real_authors", "world_facts")
# The published files of these have no paraphrase, and their probability is taken among the options.
OPTIONS = ("real_authors", "world_facts")
TEMPLATE = "[INST] {question} [/INST]"  # both conventions' for Llama-2-chat


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Limits of a convention.

    Attributes:
      text: tokens of prompt and answer.
      new: generated tokens.
      whole: tokens of prompt and generated answer together, or None.
      epsilon: added to divisors.
    """

    text: int
    new: int
    whole: int | None
    epsilon: float


CONVENTIONS = {
    "tofu": Lengths(text=200, new=200, whole=200, epsilon=0.0),
    "open-unlearning": Lengths(text=512, new=200, whole=None, epsilon=1e-10),
}


@dataclasses.dataclass(frozen=True)
class Item:
    """A question, its answer, a paraphrase of the answer, and false answers in the form of the paraphrase."""

    question: str
    answer: str
    paraphrased: str
    perturbed: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Asker:
    """One model under one convention: asks questions and scores answers."""

    scorer: Scorer
    params: Params
    tokenizer: Any
    convention: str = "tofu"
    template: str = TEMPLATE

    def losses(self, questions: Sequence[str], answers: Sequence[str]) -> np.ndarray:
        """Return L, the mean token negative log-likelihood of each answer, end token included; fp64 [questions]."""
        rows, starts = zip(*map(self._encode, questions, answers), strict=True)
        scores = self.scorer.log_probabilities(self.params, rows)
        return np.array([-row[start - 1 :].mean(dtype=np.float64) for row, start in zip(scores, starts, strict=True)])

    def _encode(self, question: str, answer: str) -> tuple[list[int], int]:
        """Return the token ids of prompt, answer and end token, and the index of the answer's first token."""
        prompt = self.prompt(question)
        ids = encode_prompt(self.tokenizer, prompt + answer)[: self.lengths.text]
        start = max(1, len(encode_prompt(self.tokenizer, prompt)))
        eos = self.tokenizer.eos_token_id
        # TOFU's own text gets no end token once it is cut; open-unlearning's gets one in any case.
        if eos is not None and ids[-1] != eos and (len(ids) < self.lengths.text or self.lengths.whole is None):
            ids.append(eos)
        if start >= len(ids):
            raise UserError(
                f"the question {question[:40]!r} leaves no token of its answer {answer[:40]!r} within "
                f"{self.lengths.text} tokens; shorten it"
            )
        return ids, start

    def prompt(self, question: str) -> str:
        """Return the text before the answer."""
        return self.template.replace("{question}", question)

    @property
    def lengths(self) -> Lengths:
        """Limits of the convention."""
        return CONVENTIONS[self.convention]

    def ratios(self, items: Sequence[Item]) -> np.ndarray:
        """Return R of each item: exp(mean of the false answers' L - L of the paraphrased answer), fp64 [items].

        R is high where the true answer is likelier. open-unlearning prints 1/R.
        """
        paraphrased = self.losses([i.question for i in items], [i.paraphrased for i in items])
        return truth_ratios(
            paraphrased, [losses.mean() for losses in self.perturbed_losses(items)], self.lengths.epsilon
        )

    def perturbed_losses(self, items: Sequence[Item]) -> list[np.ndarray]:
        """Return L of every false answer, fp64 [answers] for each item."""
        flat = self.losses([i.question for i in items for _ in i.perturbed], [a for i in items for a in i.perturbed])
        return np.split(flat, np.cumsum([len(i.perturbed) for i in items])[:-1])

    def rouge(self, items: Sequence[Item], complete: Complete) -> np.ndarray:
        """Return ROUGE-L recall of the greedy answers, fp64 [items]."""
        prompts = encode_prompts(self.tokenizer, [self.prompt(item.question) for item in items])
        made = complete(prompts, self.lengths.new)
        if self.lengths.whole is not None:
            made = [new[: max(0, self.lengths.whole - len(prompt))] for prompt, new in zip(prompts, made, strict=True)]
        return np.array(
            [
                rouge_l(i.answer, decode(self.tokenizer, new), stem=True).recall
                for i, new in zip(items, made, strict=True)
            ]
        )


def load_tofu(folder: str | Path, limit: int | None = None) -> dict[str, tuple[Item, ...]]:
    """Read the first `limit` items of forget.jsonl, retain.jsonl, real_authors.jsonl and world_facts.jsonl.

    Each record is {question, answer, paraphrased_answer, perturbed_answer (a list)}; the last two files may omit
    paraphrased_answer. The published names are read too: forget10_perturbed.json (or 05, 01), retain_perturbed.json,
    real_authors_perturbed.json and world_facts_perturbed.json, which hold JSON lines.

    Raises:
      UserError: one is missing, empty or malformed; names the file, the line and the field.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; data= names the folder of TOFU's files, as forget.jsonl")
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit}: must be at least 1")
    return {split: _items(_file(folder, split), split, limit) for split in SPLITS}


def _file(folder: Path, split: str) -> Path:
    names = [f"forget{percent}" for percent in ("01", "05", "10")] if split == "forget" else [split]
    return published_file(folder, f"{split}.jsonl", *(f"{name}_perturbed.json" for name in names))


def _items(path: Path, split: str, limit: int | None) -> tuple[Item, ...]:
    fields = {
        "question": Text,
        "answer": Text,
        "paraphrased_answer": Text | None if split in OPTIONS else Text,
        "perturbed_answer": Texts,
    }
    return tuple(
        Item(r["question"], r["answer"], r["paraphrased_answer"] or r["answer"], tuple(r["perturbed_answer"]))
        for r in read_records(path, fields)[:limit]
    )


def truth_ratios(paraphrased: Any, perturbed: Any, epsilon: float = 0.0) -> np.ndarray:
    """Return R = exp(-L_paraphrased) / exp(-mean L_perturbed), fp64 [items].

    `epsilon` is added to the numerator, which is the divisor of 1/R.
    """
    paraphrased, perturbed = np.asarray(paraphrased, np.float64), np.asarray(perturbed, np.float64)
    if not epsilon:
        return np.exp(perturbed - paraphrased)
    return (np.exp(-paraphrased) + epsilon) / np.exp(-perturbed)


def forget_truth_ratio(ratios: np.ndarray) -> np.ndarray:
    """Return min(R, 1/R) of each item, fp64 [items] as R: 1 where true and false answers are equally likely."""
    return np.minimum(ratios, 1 / ratios)


def utility_truth_ratio(ratios: np.ndarray) -> np.ndarray:
    """Return max(0, 1 - 1/R) of each item, fp64 [items] as R: near 1 where the true answer is much likelier."""
    return np.maximum(0, 1 - 1 / ratios)


def harmonic_mean(values: Sequence[float]) -> float:
    """Return the harmonic mean of values of 0 or more; 0 if one of them is 0."""
    values = np.asarray(values, np.float64)
    return float(len(values) / (1 / values).sum()) if np.all(values > 0) else 0.0


def forget_quality(unlearned: np.ndarray, control: np.ndarray) -> float:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test between R of two models on the forget set.

    1 means that the models are alike. Both arrays are fp64 [items], from `Asker.ratios`.
    """
    from scipy.stats import ks_2samp  # half a second to import

    return float(ks_2samp(unlearned, control).pvalue)


def tofu_rows(
    data: dict[str, tuple[Item, ...]],
    asker: Asker,
    complete: Complete,
    *,
    model: str,
    control_ratios: np.ndarray | None = None,
) -> list[Row]:
    """Return {split}_prob, {split}_rouge and {split}_truth_ratio of every set, model_utility and forget_quality.

    forget_quality needs a control. All are 0 to 1. Intervals are 95 % bootstraps over questions; forget_quality is a
    p-value and has none.

    Args:
      data: from `load_tofu`.
      asker: the model.
      complete: its greedy generation.
      model: its name in the rows.
      control_ratios: `ratios` of the control on the forget set, fp64 [items].
    """
    check_convention(asker.convention, tuple(CONVENTIONS))
    rows, utility, forget = [], [], None
    for split, items in data.items():
        values, ratios = split_values(split, items, asker, complete)
        rows += [mean_row(f"{split}_{name}", asker.convention, model, value) for name, value in values.items()]
        if split == "forget":
            forget = ratios
        else:
            utility.append(np.stack(list(values.values()), axis=-1))  # [items, 3]
    value, count = model_utility(*utility), sum(map(len, utility))
    rows.append(make_row("model_utility", asker.convention, model, value, count, bootstrap(model_utility, utility)))
    if control_ratios is not None:
        quality = forget_quality(forget, control_ratios)
        rows.append(make_row("forget_quality", asker.convention, model, quality, len(forget)))
    return rows


def split_values(
    split: str, items: Sequence[Item], asker: Asker, complete: Complete
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return ({"prob", "rouge", "truth_ratio"}, R), fp64 [items] each; prob is taken among the options of a set."""
    epsilon = asker.lengths.epsilon
    questions = [item.question for item in items]
    perturbed = asker.perturbed_losses(items)
    prob = np.exp(-asker.losses(questions, [item.answer for item in items]))
    paraphrased = asker.losses(questions, [item.paraphrased for item in items])
    ratios = truth_ratios(paraphrased, [losses.mean() for losses in perturbed], epsilon)
    if split in OPTIONS:
        prob = prob / (prob + [np.exp(-losses).sum() for losses in perturbed] + epsilon)
    truth = forget_truth_ratio(ratios) if split == "forget" else utility_truth_ratio(ratios)
    return {"prob": prob, "rouge": asker.rouge(items, complete), "truth_ratio": truth}, ratios


def model_utility(*sets: np.ndarray) -> float:
    """Return the harmonic mean of the means of every column of `sets`, each [items, 3]: nine figures for three sets."""
    return harmonic_mean(np.concatenate([values.mean(axis=0) for values in sets]))


def measure(
    model: Model,
    *,
    data: Path,
    conventions: Sequence[str] = ("tofu",),
    control: Model | None = None,
    template: str = TEMPLATE,
    limit: int | None = None,
) -> list[Row]:
    """Measure TOFU on the files in the folder `data` under each of `conventions`.

    Args:
      model: the model.
      data: the folder; see `load_tofu`.
      conventions: of "tofu" and "open-unlearning".
      control: a model that never read the forget set, for forget_quality.
      template: the text before an answer, with {question} in it.
      limit: questions of each set, at most.
    """
    for convention in conventions:
        check_convention(convention, tuple(CONVENTIONS))
    if "{question}" not in template:
        raise UserError(f"template={template!r}: holds no {{question}}; write one, as {TEMPLATE!r}")
    files, complete = load_tofu(data, limit), cached_generation(completer(model))

    def asker(asked: Model, convention: str) -> Asker:
        return Asker(scorer_of(asked), asked.params, asked.tokenizer, convention, template)

    rows = []
    for convention in conventions:
        ratios = None if control is None else asker(control, convention).ratios(files["forget"])
        rows += tofu_rows(files, asker(model, convention), complete, model=model.folder.name, control_ratios=ratios)
    return rows


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    return {
        "data": run.required_path("tofu", "the folder of TOFU's four files", folder=True),
        "conventions": tuple(CONVENTIONS),
        "control": run.reference("control"),
        "template": run.config.evals.tofu_template,
    }


SUITE = Suite("TOFU under both conventions", measure, options)
