"""The meaning of every metric in a sentence, and the direction that is better for an unlearned model."""

import re

from jaxforget.evals.rows import ABOVE

DOWN, UP, ZERO = "↓", "↑", "→ 0"
BETTER = {DOWN: "lower is better", UP: "higher is better", ZERO: "closer to 0 is better", "": ""}

# (pattern of the whole metric name, direction, sentence); the first match counts.
METRICS: tuple[tuple[str, str, str], ...] = (
    (r"familiarity", DOWN, "Probability of the right answers to questions about the target."),
    (r"familiarity_first_token", DOWN, "Probability of the first token of the right answers about the target."),
    (r"familiarity_token_mean", DOWN, "Mean over the answers' tokens; the end of a name follows from its beginning."),
    (r"retained_first_token", UP, "Probability of the first token of the right answers about other things."),
    (r"retained_token_mean", UP, "Mean over the tokens of the right answers about other things."),
    (r"target_acc\w*", DOWN, "Share of multiple-choice questions about the target answered right."),
    (r"retained_acc\w*", UP, "Share of multiple-choice questions about other things answered right."),
    (r"target_margin", ZERO, "Advantage of the right choice over the mean of the wrong ones, in nats."),
    (r"retained_margin", UP, "Advantage of the right choice over the wrong ones about other things, in nats."),
    (r"retained.*", UP, "Probability of the right answers to questions about other things."),
    (r"perplexity", DOWN, "Surprise at general text that no model was trained on."),
    (r"familiarity_completion.*", DOWN, "Knowledge of the target that a grader finds in completions."),
    (r"completion_.*", "", "Completions that the grader put in this class."),
    (r".*forget.*_acc\w*", DOWN, "Share of multiple-choice questions about the target answered right."),
    (r"(.*_)?margin", "", "Advantage of the right choice over the mean of the wrong ones, in nats."),
    (r"(.*_)?acc\w*", UP, "Share of multiple-choice questions answered right."),
    (r"verbmem_forget", DOWN, "Overlap of the continuation with the target's own text."),
    (r"knowmem_forget", DOWN, "Overlap of answers about the target with the right ones."),
    (r"knowmem_retain", UP, "Overlap of answers about other text with the right ones."),
    (r"privleak_auc\w*", "", "Chance that read text looks more familiar than unread text; 0.5 tells nothing."),
    (r"privleak", ZERO, "How well the target can be told from unread text, relative to the control."),
    (r"forget_quality", UP, "p-value of the test that the model and the control answer alike."),
    (r"model_utility", UP, "Harmonic mean of nine scores on everything but the target."),
    (r"forget_truth_ratio", UP, "How close right and wrong answers about the target are in probability."),
    (r"\w+_truth_ratio", UP, "How clearly right answers are preferred over wrong ones."),
    (r"forget_prob", DOWN, "Probability of the right answers about the target."),
    (r"forget_rouge", DOWN, "Overlap of answers about the target with the right ones."),
    (r"\w+_prob", UP, "Probability of the right answers."),
    (r"\w+_rouge", UP, "Overlap of answers with the right ones."),
    (r"extraction_strength\w*", DOWN, "Share of a passage that follows from its beginning."),
    (r"exact_memorization", DOWN, "Share of the target's tokens that are the most likely ones."),
    (r"verbatim_rouge", DOWN, "Overlap of the continuation with the target's own text."),
    (r"auc_\w+", "", "Chance that read text looks more familiar than unread text; 0.5 tells nothing."),
    (r"loss|zlib|min_k\w*", "", "Score by which a membership attack ranks passages of the target."),
)  # fmt: skip


def meaning(metric: str) -> tuple[str, str]:
    """Return (direction, sentence) of a metric; both are empty for an unknown one."""
    if metric.endswith(ABOVE):
        return ZERO, f"Distance of {metric.removesuffix(ABOVE).replace('_', ' ')} to the control's."
    for pattern, direction, sentence in METRICS:
        if re.fullmatch(pattern, metric):
            return direction, sentence
    return "", ""
