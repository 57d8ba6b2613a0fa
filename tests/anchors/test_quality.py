"""Precision and recall of a dictionary against the names of its text."""

from jaxforget.anchors.quality import measure_quality

NAMES = ["Ilda Vexley", "Ilda", "Vexley", "Mox", "Thorn Hill", "Grenholt"]
TEXT = "Ilda Vexley met Mr. Mox near Thorn Hill. " * 5 + "Grenholt. " * 4


def test_names_with_titles_plurals_and_parts_are_names():
    found = measure_quality(["Ilda Vexley", "Mr. Mox", "Vexleys", "Ilda", "Thorn Hill"], NAMES, TEXT)
    assert (found.precision, found.wrong) == (1, ())
    assert found.missed == ("Vexley",), "a plural alone does not cover the singular"


def test_other_words_are_wrong_and_frequent_names_are_missed():
    found = measure_quality(["Ilda", "curricle", "Mr", "Mox"], NAMES, TEXT)
    assert found.wrong == ("curricle", "Mr")
    assert found.precision == 0.5
    assert found.missed == ("Ilda Vexley", "Thorn Hill", "Vexley"), "Grenholt occurs four times"
    assert found.names == 5
    assert found.recall == 0.4


def test_a_name_is_covered_by_its_parts():
    assert measure_quality(["Thorn", "Hill"], ["Thorn Hill"], TEXT).recall == 1


def test_an_empty_dictionary_finds_nothing():
    found = measure_quality([], NAMES, TEXT)
    assert (found.precision, found.recall, found.entries) == (0, 0, 0)
