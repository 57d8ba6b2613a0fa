"""Columns of text: wrapped, final rows only, terms coloured."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxforget.cli.columns import Columns, display_width, fits, highlight, wrap
from jaxforget.report.texts import term_pattern

TEXTS = st.text(st.sampled_from("ab \n漢é"), max_size=80)


@given(TEXTS, st.integers(2, 20))
def test_lines_fit_and_no_word_is_lost(text, width):
    lines = wrap(text, width)
    assert all(display_width(line) <= width for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace("\n", "").replace(" ", "")


@given(TEXTS, TEXTS, st.integers(2, 20))
def test_all_lines_but_the_last_are_final_while_a_text_grows(text, more, width):
    before, after = wrap(text, width), wrap(text + more, width)
    assert after[: len(before) - 1] == before[:-1]


def test_rows_are_printed_once_they_are_final_in_every_column():
    out = io.StringIO()
    columns = Columns(["one", "two"], 12, out)
    assert out.getvalue().splitlines() == ["one    two"]
    columns.add(0, "aa bb cc dd")
    assert len(out.getvalue().splitlines()) == 1, "the second column has no final row yet"
    columns.add(1, "xx yy zz")
    assert out.getvalue().splitlines()[1:] == ["aa bb  xx yy"]
    columns.end(1)
    columns.end(0)
    assert out.getvalue().splitlines()[1:] == ["aa bb  xx yy", "cc dd  zz"]


def test_terms_are_coloured_on_terminals_only():
    pattern = term_pattern(["Maren"])
    assert highlight("Maren sang", pattern, colour=True) == "\x1b[1;31mMaren\x1b[0m sang"
    assert highlight("Maren sang", pattern, colour=False) == "Maren sang"


@pytest.mark.parametrize(("count", "width", "told"), [(1, 200, False), (2, 100, True), (2, 60, False), (3, 100, True)])
def test_columns_need_room(count, width, told):
    assert fits(count, width) == told
