"""The tables of evidence: a suite a table, a model a column, equal conventions in one line."""

from jaxforget.evals.rows import Row
from jaxforget.report.evidence import evidence
from jaxforget.report.glossary import DOWN, UP, ZERO, meaning


def row(metric, convention, model, value, n=10) -> Row:
    return Row(metric, convention, model, value, value - 0.1, value + 0.1, n)


SUITES = {
    ("knowmem_forget", "muse"): "muse",
    ("knowmem_forget", "open-unlearning"): "muse",
    ("familiarity", "p"): "probability",
}


def test_models_are_columns_and_every_suite_has_one_table():
    rows = [
        row("knowmem_forget", "muse", "base", 0.6),
        row("knowmem_forget", "open-unlearning", "base", 0.7),
        row("familiarity", "p", "control", 0.0),
        row("familiarity", "p", "base", 0.9),
        row("stranger", "p", "base", 0.5),
    ]
    tables = evidence(rows, SUITES, frozenset())
    assert [table["suite"] for table in tables] == ["probability", "muse", "other"]
    first, muse, _ = tables
    assert first["models"] == ["base", "control"]
    assert [cell["text"] for cell in first["lines"][0]["cells"]] == ["0.900", "0"]
    assert first["lines"][0]["cells"][0]["bounds"] == "0.800 to 1"
    assert first["lines"][0]["arrow"] == DOWN
    assert [line["conventions"] for line in muse["lines"]] == [["muse"], ["open-unlearning"]]
    assert [line["under"] for line in muse["lines"]] == ["muse", "open-unlearning"]
    assert first["lines"][0]["under"] == "", "one line needs no convention beside its name"


def test_conventions_with_equal_figures_share_a_line_and_others_never_do():
    rows = [row("knowmem_forget", c, m, 0.6) for c in ("muse", "open-unlearning") for m in ("base", "control")]
    (table,) = evidence(rows, SUITES, frozenset())
    assert [line["conventions"] for line in table["lines"]] == [["muse", "open-unlearning"]]
    rows[-1] = row("knowmem_forget", "open-unlearning", "control", 0.61)
    (table,) = evidence(rows, SUITES, frozenset())
    assert [line["conventions"] for line in table["lines"]] == [["muse"], ["open-unlearning"]]


def test_metrics_with_the_same_figures_share_a_line_if_the_models_differ():
    values = {"base": 0.9, "unlearned": 0.1, "control": 0.0}
    same = [row(m, "p", model, v) for m in ("familiarity", "familiarity_token_mean") for model, v in values.items()]
    other = [row("retained_token_mean", "p", model, v) for model, v in values.items()]
    (table,) = evidence([*same, *other], {}, frozenset())
    assert [(line["metric"], line["also"]) for line in table["lines"]] == [
        ("familiarity", ["familiarity token mean"]),
        ("retained token mean", []),  # the better direction is another
    ]
    # Two models of equal figures say little: each metric keeps its line.
    (table,) = evidence([one for one in same if one.model != "control"], {}, frozenset())
    assert len(table["lines"]) == 2


def test_metrics_that_the_page_shows_elsewhere_are_left_out():
    assert evidence([row("int4", "x", "base", 0.5)], {}, frozenset({"int4"})) == []


def test_every_metric_of_the_suites_is_explained():
    assert meaning("familiarity") == (DOWN, "Probability of the right answers to questions about the target.")
    assert meaning("arc_easy_acc_norm")[0] == UP
    assert meaning("forget_prob")[0] == DOWN
    assert meaning("retain_prob")[0] == UP
    assert meaning("forget_truth_ratio")[0] == UP
    assert meaning("target_acc_norm")[0] == DOWN
    assert meaning("retained_acc") == (UP, "Share of multiple-choice questions about other things answered right.")
    assert meaning("retained_margin")[0] == UP
    assert meaning("target_margin_above_control") == (ZERO, "Distance of target margin to the control's.")
    assert meaning("nobody's") == ("", "")
