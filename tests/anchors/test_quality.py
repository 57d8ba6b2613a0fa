"""Precision and recall of a dictionary against the names of its text."""

import pytest

from jaxforget.anchors.quality import measure_quality, occurrences

NAMES = ["Ilda Vexley", "Ilda", "Vexley", "Mox", "Thorn Hill", "Grenholt"]
TEXT = "Ilda Vexley met Mr. Mox near Thorn Hill. " * 5 + "Grenholt. " * 4


def test_names_with_titles_plurals_and_parts_are_names():
    found = measure_quality(["Ilda Vexley", "Mr. Mox", "Vexleys", "Ilda", "Thorn Hill"], NAMES, TEXT)
    assert (found.precision, found.wrong) == (1, ())
    assert found.missed == ()


def test_a_plural_alone_does_not_cover_the_singular():
    assert measure_quality(["Vexleys"], ["Vexley"], "Vexley. " * 5).missed == ("Vexley",)


def test_occurrences_in_longer_names_and_over_line_ends():
    text = "Ilda Vexley\nsaw Ilda; Thorn\nHill, Thorn Hill-side."
    assert occurrences(text, NAMES) == {
        "Ilda Vexley": 1, "Thorn Hill": 1, "Grenholt": 0, "Vexley": 0, "Ilda": 1, "Mox": 0
    }  # fmt: skip


def test_names_of_the_real_world_are_no_errors_and_are_not_expected():
    text = TEXT + "London. " * 9
    assert measure_quality(["Mox", "London"], NAMES, text, real=["London"]).precision == 1
    assert "London" not in measure_quality(["Mox"], NAMES, text, real=["London"]).missed


def test_other_words_are_wrong_and_frequent_names_are_missed():
    found = measure_quality(["Ilda", "curricle", "Mr", "Mox"], NAMES, TEXT)
    assert found.wrong == ("curricle", "Mr")
    assert found.precision == 0.5
    assert found.missed == ("Ilda Vexley", "Thorn Hill"), "Grenholt occurs four times, Ilda in her full name only"
    assert found.names == 3
    assert found.recall == pytest.approx(1 / 3)


def test_a_name_is_covered_by_its_parts():
    assert measure_quality(["Thorn", "Hill"], ["Thorn Hill"], TEXT).recall == 1


def test_an_empty_dictionary_finds_nothing():
    found = measure_quality([], NAMES, TEXT)
    assert (found.precision, found.recall, found.entries) == (0, 0, 0)
