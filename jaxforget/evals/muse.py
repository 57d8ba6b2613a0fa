"""Suite `muse`: verbatim memory, knowledge memory and privacy leakage of MUSE (Shi et al., 2407.06460).

There are two conventions. `muse` is the benchmark's own code. `open-unlearning` uses a stemmer, and takes one token in
Min-K % of texts so short that 40 % of their tokens are none. Both measure the paper's VerbMem, KnowMem and PrivLeak;
the formulas stand at the functions of these names:

- Every prompt and text is opened as the tokenizer opens it (with BOS where it adds one) and never cut, even beyond the
  positions that the model was trained on. No text is closed by an end token; the published code keeps the end token of
  a tokenizer that appends one.
- Generation is greedy, one prompt's result independent of the others, and stops at the end token.
- Texts are decoded without special tokens and without cleaning up spaces. ROUGE is the mean over items of each item's
  ROUGE-L F1.
- All the few-shot examples in a file are used: the published files hold ten.

Three further differences of open-unlearning's released code are not reproduced: it compares with the whole reference
instead of its first 128 tokens, omits a text's last token in Min-K %, and cuts few-shot prompts at 512 tokens and texts
at 2,048.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxforget.corpus.prompts import encode_prompts
from jaxforget.errors import UserError
from jaxforget.evals.intervals import bootstrap
from jaxforget.evals.membership_scores import auc, lowest_mean
from jaxforget.evals.records import published_file, read_records, read_texts
from jaxforget.evals.rows import Row, check_convention, make_row, mean_row
from jaxforget.evals.scorers import cached_generation, scorer_of
from jaxforget.evals.suite import RunInputs, Suite
from jaxforget.evals.text_scores import cut_at, decode, rouge_l
from jaxforget.files import Text
from jaxforget.lm.completion import completer
from jaxforget.lm.generate import Complete
from jaxforget.lm.model import Model
from jaxforget.lm.scoring import Scorer
from jaxforget.train.types import Params

CONVENTIONS = ("muse", "open-unlearning")
VERBATIM_TOKENS = 128
ANSWER_TOKENS = 32
ANSWER_ENDS = ("\n\n", "\nQuestion", "Question:")
LOWEST = 0.4


@dataclasses.dataclass(frozen=True)
class Pair:
    """A prompt and its continuation in the forget set; or a question and its answer."""

    prompt: str
    reference: str


@dataclasses.dataclass(frozen=True)
class Quiz:
    """Questions, and the examples before each of them."""

    questions: tuple[Pair, ...]
    shots: tuple[Pair, ...]


@dataclasses.dataclass(frozen=True)
class MuseData:
    """The benchmark's files.

    Attributes:
      verbmem: prompts of the forget set.
      knowmem: questions by "forget" and "retain".
      privleak: texts by "forget", "retain" and "holdout".
    """

    verbmem: tuple[Pair, ...]
    knowmem: dict[str, Quiz]
    privleak: dict[str, tuple[str, ...]]


def load_muse(folder: str | Path) -> MuseData:
    """Read the benchmark's files.

    They are verbmem_forget.json ({prompt, gt}), knowmem_{forget,retain}_qa.json and
    knowmem_{forget,retain}_qa_icl.json ({question, answer}), and privleak_{forget,retain,holdout}.json (texts). The
    folders as published are read too: verbmem/forget.json, knowmem/forget_qa.json, privleak/forget.json and so on.

    Raises:
      UserError: one is missing, empty or malformed; names the file, the item and the field.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; data= names the folder of MUSE's files, as verbmem/forget.json")

    def file(name: str) -> Path:
        part, _, rest = name.partition("_")
        return published_file(folder, f"{name}.json", f"{part}/{rest}.json")

    def pairs(name: str, prompt: str, reference: str) -> tuple[Pair, ...]:
        records = read_records(file(name), {prompt: Text, reference: Text})
        return tuple(Pair(record[prompt], record[reference]) for record in records)

    return MuseData(
        verbmem=pairs("verbmem_forget", "prompt", "gt"),
        knowmem={
            part: Quiz(
                pairs(f"knowmem_{part}_qa", "question", "answer"),
                pairs(f"knowmem_{part}_qa_icl", "question", "answer"),
            )
            for part in ("forget", "retain")
        },
        privleak={part: tuple(read_texts(file(f"privleak_{part}"))) for part in ("forget", "retain", "holdout")},
    )


def verbmem(pairs: Sequence[Pair], complete: Complete, tokenizer: Any, *, stem: bool) -> np.ndarray:
    """Return ROUGE-L F1 of each prompt's greedy continuation of at most 128 tokens, fp64 [pairs].

    The reference is the text of the first 128 ids of the true continuation. BOS is one of them, so 127 are text.
    """
    made = complete(encode_prompts(tokenizer, [pair.prompt for pair in pairs]), VERBATIM_TOKENS)
    encoded = encode_prompts(tokenizer, [pair.reference for pair in pairs])
    references = [decode(tokenizer, ids[:VERBATIM_TOKENS]) for ids in encoded]
    return np.array([rouge_l(r, decode(tokenizer, ids), stem=stem).f1 for r, ids in zip(references, made, strict=True)])


def knowmem(quiz: Quiz, complete: Complete, tokenizer: Any, *, stem: bool) -> np.ndarray:
    """Return ROUGE-L F1 of each question's greedy answer after the examples, fp64 [questions].

    The prompt ends in "Answer: " with its space. The answer has 32 tokens and is cut before a blank line or another
    question.
    """
    shots = "".join(f"Question: {shot.prompt}\nAnswer: {shot.reference}\n\n" for shot in quiz.shots)
    prompts = [f"{shots}Question: {pair.prompt}\nAnswer: " for pair in quiz.questions]
    made = complete(encode_prompts(tokenizer, prompts), ANSWER_TOKENS)
    answers = [cut_at(decode(tokenizer, ids), ANSWER_ENDS) for ids in made]
    return np.array(
        [rouge_l(pair.reference, answer, stem=stem).f1 for pair, answer in zip(quiz.questions, answers, strict=True)]
    )


def lowest_means(
    texts: Sequence[str], scorer: Scorer, params: Params, tokenizer: Any, *, at_least_one: bool, where: str
) -> np.ndarray:
    """Return the mean of the lowest 40 % token log-probabilities of each text, in nats, fp64 [texts].

    This is -s(x) of the paper: at most 0, and higher for a likelier text.

    Args:
      texts: the texts.
      scorer: computes log-probabilities.
      params: parameters of the model.
      tokenizer: the model's.
      at_least_one: take one token where 40 % of them are less than one.
      where: begins the message of an error.

    Raises:
      UserError: 40 % of a text's tokens are less than one, and `at_least_one` is False.
    """
    rows = encode_prompts(tokenizer, texts)
    scores = scorer.log_probabilities(params, rows)
    means = np.array([lowest_mean(row, LOWEST, at_least_one=at_least_one) for row in scores])
    for number in np.flatnonzero(np.isnan(means)):
        raise UserError(
            f"{where}: item {number} has {len(scores[number])} tokens to predict, and 40 % of them is none; "
            "remove it, or join it to another"
        )
    return means


def privleak(value: float, control: float) -> float:
    """Return 100 (AUC - AUC_control) / AUC_control in percent.

    0: as if never trained on the forget set. -100: memorized. Above 0: the forget set is abnormally unlikely, which
    reveals it too.
    """
    return 100 * (value - control) / control


def privleak_auc(data: MuseData, scorer: Scorer, params: Params, tokenizer: Any, convention: str = "muse") -> float:
    """Return AUC = P(-s(holdout) > -s(forget)) of a model; the control's is `auc_control` of `muse_rows`."""
    scored = _all_lowest_means(data, ("forget", "holdout"), scorer, params, tokenizer, convention)
    return auc(scored["holdout"], scored["forget"])


def muse_rows(
    data: MuseData,
    *,
    scorer: Scorer,
    params: Params,
    complete: Complete,
    tokenizer: Any,
    model: str,
    convention: str = "muse",
    auc_control: float | None = None,
) -> list[Row]:
    """Return verbmem_forget, knowmem_forget, knowmem_retain (0 to 1), privleak (percent) and its AUCs (0 to 1).

    Intervals are 95 % bootstraps over items. That of privleak takes `auc_control` as exact; its n is the number of
    forget texts.

    Args:
      data: from `load_muse`.
      scorer: of the model's architecture, with `params`, and `complete`, the same model's greedy generation.
      tokenizer: the model's.
      model: its name in the rows.
      convention: "muse" or "open-unlearning".
      auc_control: AUC of a model that never saw the forget set; None omits the row privleak.

    Raises:
      UserError: the convention is unknown, auc_control is out of range, or a text is too short to score.
    """
    check_convention(convention, CONVENTIONS)
    check_auc(auc_control)
    stem = convention == "open-unlearning"
    # These means come first: they find unfit input and cost the least.
    scored = _all_lowest_means(data, ("forget", "retain", "holdout"), scorer, params, tokenizer, convention)
    rows = [mean_row("verbmem_forget", convention, model, verbmem(data.verbmem, complete, tokenizer, stem=stem))]
    for part, quiz in data.knowmem.items():
        values = knowmem(quiz, complete, tokenizer, stem=stem)
        rows.append(mean_row(f"knowmem_{part}", convention, model, values))
    for part, metric in (("forget", "privleak_auc"), ("retain", "privleak_auc_retain")):
        samples = [scored["holdout"], scored[part]]
        value, (low, high) = auc(*samples), bootstrap(auc, samples)
        if part == "forget" and auc_control is not None:
            interval = (privleak(low, auc_control), privleak(high, auc_control))
            percent = privleak(value, auc_control)
            rows.append(make_row("privleak", convention, model, percent, len(scored[part]), interval))
        rows.append(make_row(metric, convention, model, value, len(scored[part]), (low, high)))
    return rows


def _all_lowest_means(
    data: MuseData, parts: Sequence[str], scorer: Scorer, params: Params, tokenizer: Any, convention: str
) -> dict[str, np.ndarray]:
    one = convention == "open-unlearning"
    return {
        part: lowest_means(
            data.privleak[part], scorer, params, tokenizer, at_least_one=one, where=f"privleak_{part}.json"
        )
        for part in parts
    }


def check_auc(value: float | None) -> None:
    """Raise `UserError` unless `value` is None or in (0, 1]."""
    if value is not None and not (isinstance(value, int | float) and 0 < value <= 1):
        raise UserError(
            f"auc_control={value!r}: must be above 0 and at most 1; MUSE's own are 0.4772 (News) and 0.5393 (Books)"
        )


def measure(
    model: Model,
    *,
    data: Path,
    conventions: Sequence[str] = ("muse",),
    auc_control: float | None = None,
    control: Model | None = None,
) -> list[Row]:
    """Measure MUSE on the files in the folder `data` under each of `conventions`.

    Args:
      model: the model.
      data: the folder; see `load_muse`.
      conventions: of "muse" and "open-unlearning".
      auc_control: the AUC that privleak is read against, or
      control: the model to take it from.

    Raises:
      UserError: a file or an option is unfit, or the control's AUC is 0.
    """
    for convention in conventions:
        check_convention(convention, CONVENTIONS)
    check_auc(auc_control)
    if control is not None and auc_control is not None:
        raise UserError("auc_control and control both say what privleak is read against; give one")
    files, scorer, complete = load_muse(data), scorer_of(model), cached_generation(completer(model))
    rows = []
    for convention in conventions:
        reference = auc_control
        if control is not None:
            reference = privleak_auc(files, scorer_of(control), control.params, control.tokenizer, convention)
            if not reference:
                raise UserError(
                    f"{control.folder}: its AUC is 0, so privleak is not defined against it: a control that always "
                    "tells the forget set from the holdout has read it; name another control"
                )
        rows += muse_rows(
            files,
            scorer=scorer,
            params=model.params,
            complete=complete,
            tokenizer=model.tokenizer,
            model=model.folder.name,
            convention=convention,
            auc_control=reference,
        )
    return rows


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run: an AUC that is set replaces the control's."""
    reference = run.config.evals.auc_control
    return {
        "data": run.required_path("muse", "the folder of MUSE's files", folder=True),
        "conventions": CONVENTIONS,
        "auc_control": reference,
        "control": run.reference("control") if reference is None else None,
    }


SUITE = Suite("MUSE under both conventions", measure, options)
