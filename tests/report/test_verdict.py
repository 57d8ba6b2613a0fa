"""The verdict: rows of evidence in, a word, a tone and a sentence out."""

import io

import pytest

from jaxforget.evals.rows import Row
from jaxforget.report.verdict import attack_name, chosen, judge, judge_run
from tests.report.synthetic import attack_rows, write_run


def row(metric: str, model: str, value: float | None, convention: str = "probability") -> Row:
    return Row(metric, convention, model, value, None, None, 10)


def rows(familiarity, retained=(0.9, 0.9), perplexity=(2.0, 2.0), control=None) -> list[Row]:
    """Rows of base and unlearned, each pair (base, unlearned), and of a control's familiarity."""
    pairs = {"familiarity": familiarity, "retained": retained, "perplexity": perplexity}
    found = [row(name, model, value) for name, pair in pairs.items() if pair
             for model, value in zip(("base", "unlearned"), pair, strict=True)]  # fmt: skip
    return found if control is None else [*found, row("familiarity", "control", control)]


@pytest.mark.parametrize(
    ("measured", "word", "tone"),
    [
        (rows((0.9, 0.005), control=0.0), "Forgotten", "good"),
        (rows((0.9, 0.005)), "Forgotten", "good"),
        (rows((0.9, 0.35), control=0.3), "Forgotten", "good"),
        (rows((0.9, 0.35), control=0.0), "Partly forgotten", "warn"),
        (rows((0.9, 0.6), control=0.0), "Not forgotten", "bad"),
        (rows((0.9, 0.91), control=0.0), "Not forgotten", "bad"),
        (rows((0.9, 0.005), retained=(0.9, 0.6)), "Forgotten, with harm", "warn"),
        (rows((0.9, 0.005), perplexity=(2.0, 2.5)), "Forgotten, with harm", "warn"),
        (rows((0.9, 0.35), retained=(0.9, 0.6)), "Partly forgotten, with harm", "warn"),
        (rows((0.9, 0.005), retained=(0.9, 0.2)), "Broken", "bad"),
        (rows((0.9, 0.005), perplexity=(2.0, 4.5)), "Broken", "bad"),
        (rows((0.9, 0.6), retained=(0.9, 0.6)), "Not forgotten", "bad"),
        (rows((0.9, 0.9), perplexity=(2.0, 2.0)), "Nothing changed", "bad"),
        (rows((0.9, 0.9), perplexity=(2.0, 2.01)), "Not forgotten", "bad"),
        (rows((0.011, 0.01), control=0.0), "Not known before", "none"),
        (rows(None), "Not measured", "none"),
        ([], "Not measured", "none"),
    ],
)
def test_the_word_follows_from_the_figures(measured, word, tone):
    found = judge(measured)
    assert (found.word, found.tone) == (word, tone), found.sentence


def test_the_sentence_holds_the_figures():
    found = judge(rows((0.9014, 0.0054), (0.9033, 0.9094), (1.916, 1.929), control=1.7e-6))
    assert found.sentence == (
        "0.901 → 0.005 (control 0.000). Kept: 100.7 %. Perplexity +0.7 %. No attack was tried against a control."
    )


def test_a_perplexity_beyond_reason_is_a_factor():
    assert "Perplexity × 2.3e+12." in judge(rows((0.9, 0.005), perplexity=(2.0, 4.6e12))).sentence
    assert "Perplexity −10.0 %." in judge(rows((0.9, 0.005), perplexity=(2.0, 1.8))).sentence


def test_a_run_whose_result_equals_base_says_so_loudly():
    found = judge(rows((0.9, 0.9), control=0.0))
    assert "the unlearned model scores exactly as base on all 3 measures: the run changed nothing" in found.sentence


def test_without_retained_knowledge_the_sentence_says_that_harm_is_unknown():
    found = judge(rows((0.9, 0.0), retained=None, perplexity=None))
    assert "Kept: not measured" in found.sentence
    assert found.word == "Forgotten"


def test_the_strongest_attack_is_the_furthest_above_the_control():
    attacked = [Row(**item) for item in attack_rows()]
    found = judge([*rows((0.93, 0.04), control=0.03), *attacked])
    assert "Strongest attack brings back 0.640 (relearning 24 steps)." in found.sentence
    # Interpolation towards base, areas under a curve and margins in nats are no attacks on the answers.
    answer = "probability of the whole answer"
    others = {"back_to_base_90": answer, "plain": answer, "auc_loss": "P(member)", "target_margin": "nats"}
    for name, convention in others.items():
        more = [row(name, "unlearned", 5.3, convention), row(f"{name}_above_control", "unlearned", 5.2, convention)]
        assert judge([*rows((0.93, 0.04), control=0.03), *attacked, *more]).sentence == found.sentence


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("relearn_target_12", "relearning 12 steps"),
        ("relearn_neighbours_24", "relearning 24 steps on neighbours"),
        ("int4", "rounding to 4 bits"),
        ("int4_retained", "other knowledge after rounding to 4 bits"),
        ("back_to_base_25", "25 % of the way back to base's weights"),
        ("few_shot", "examples in the prompt"),
        ("languages_worst", "other languages, the worst variant"),
        ("my_phrasing", "my phrasing"),
    ],
)
def test_attacks_have_readable_names(attack, said):
    assert attack_name(attack) == said


def test_runs_with_other_suites_only_are_judged_by_those():
    found = [row("knowmem_forget", "base", 0.6), row("knowmem_forget", "unlearned", 0.02)]
    assert judge([*found, row("knowmem_retain", "base", 0.5), row("knowmem_retain", "unlearned", 0.2)]).word == (
        "Forgotten, with harm"
    )


def test_the_whole_answers_probability_counts_before_other_conventions():
    conventions = ("completion, score/N", "mean probability of the answer's tokens", "probability of the whole answer")
    found = [row("familiarity", "base", float(i), c) for i, c in enumerate(conventions)]
    assert chosen(found, "familiarity") == (conventions[2], {"base": 2.0})
    assert chosen(found[:2], "familiarity")[0] == conventions[1]
    assert chosen(found[:1], "familiarity")[0] == conventions[0]
    assert chosen([], "familiarity") == ("", {})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_colour_unless_it_wants_none(monkeypatch):
    found = judge(rows((0.9, 0.005)))
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert found.line(Terminal()).startswith("\x1b[1;32mForgotten\x1b[0m: 0.900")
    assert found.line(io.StringIO()).startswith("Forgotten: 0.900")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in found.line(Terminal())


def test_a_run_is_judged_by_its_summary(tmp_path):
    assert judge_run(write_run(tmp_path / "good")).word == "Forgotten"
    assert judge_run(tmp_path).word == "Not measured"
