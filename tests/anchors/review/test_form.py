"""The review as text: written, edited, read back."""

import pytest

from jaxforget.anchors.review.edits import Change
from jaxforget.anchors.review.form import read_form, write_form
from jaxforget.errors import UserError
from tests.anchors.review.given import ENTRIES, make_review


@pytest.fixture
def form(tmp_path):
    review = make_review(tmp_path, {**ENTRIES, "a = b": ["c | d"]})
    path = tmp_path / "review.txt"
    assert write_form(path, review) == 5
    return path, review


def edited(path, *pairs) -> None:
    text = path.read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def test_a_form_that_nobody_touched_changes_nothing(form):
    path, review = form
    assert read_form(path, review) == []
    lines = path.read_text().splitlines()
    assert "? Zorvath = Kate | Paul" in lines
    assert "#     person, 9 times, contrast 12.5" in lines
    assert r"? a \= b = c \| d" in lines


def test_edits_are_read_and_hold(form):
    path, review = form
    edited(
        path,
        ("? Zorvath = Kate | Paul", "? Zorvath = Martin | Paul|Martin"),
        ("? wand", "-  wand"),
        ("? Quillon", "+ Quillon"),
        (r"? a \= b = c \| d", r"+ a \= b = e \= f"),
        ("? Brindle Mox = Peter Green\n", "+ Vex Hollow = Mill Lane\n"),
    )
    changes = read_form(path, review)
    assert changes == [
        Change("Vex Hollow", "added", ("Mill Lane",)),
        Change("Zorvath", "edited", ("Martin", "Paul")),
        Change("Quillon", "accepted", ("Anna",)),
        Change("wand", "dropped"),
        Change("a = b", "edited", ("e = f",)),
    ]
    review.save(review.version(), changes)
    write_form(path, review)
    assert read_form(path, review) == []
    assert "- wand = staff | stick" in path.read_text()
    edited(path, ("- wand", "? wand"), ("+ Quillon", "? Quillon"))
    assert read_form(path, review) == [Change("Quillon", "", ("Anna",)), Change("wand", "", ("staff", "stick"))]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("Zed = A", r":\d+: does not begin with \?, \+ or -"),
        ("+ Zed", r":\d+: has no =; write it as"),
        ("+ Zed = ", "the name or its translations are missing"),
        ("+ = A", "the name or its translations are missing"),
        ("+ wand = A", "'wand' already has a line"),
    ],
)
def test_lines_that_cannot_be_read(line, says, form):
    path, review = form
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match=says) as told:
        read_form(path, review)
    assert "\n" not in str(told.value)


def test_a_dictionary_that_changed_meanwhile(form):
    path, review = form
    review.save(review.version(), [Change("wand", "dropped")])
    with pytest.raises(UserError, match="the dictionary changed since this form was written"):
        read_form(path, review)


def test_a_form_without_its_version(form):
    path, review = form
    path.write_text("+ Zed = A\n")
    with pytest.raises(UserError, match="its version line is missing"):
        read_form(path, review)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8 at byte 0"):
        read_form(path, review)
