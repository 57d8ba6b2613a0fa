"""Decisions applied to a dictionary, and decisions that are refused."""

import json

import pytest

from jaxforget.anchors.review.edits import Change, ConflictError, Review, apply_verdicts, changes_from, read_verdicts
from jaxforget.corpus.dictionary import Anchors
from jaxforget.errors import UserError
from tests.anchors.review.given import ENTRIES, make_review


@pytest.fixture
def review(tmp_path) -> Review:
    return make_review(tmp_path)


def standing(review: Review) -> dict[str, tuple[str, ...]]:
    return dict(Anchors.load(review.anchors, keep_all=True).entries)


def test_what_is_decided_stands_in_the_dictionary(review):
    version = review.version()
    after = review.save(
        version,
        [
            Change("Zorvath", "edited", ("Martin", "Paul")),
            Change("wand", "dropped"),
            Change("Quillon", "accepted", ("Anna",)),
            Change("Vex Hollow", "added", ("Mill Lane",)),
        ],
    )
    assert after == review.version() != version
    # The first match wins, so the name of two words comes before names of one.
    assert list(standing(review).items()) == [
        ("Brindle Mox", ("Peter Green",)),
        ("Vex Hollow", ("Mill Lane",)),
        ("Zorvath", ("Martin", "Paul")),
        ("Quillon", ("Anna",)),
    ]
    assert {entry.anchor: entry.verdict for entry in review.entries()} == {
        "Brindle Mox": "",
        "Vex Hollow": "added",
        "Zorvath": "edited",
        "Quillon": "accepted",
        "wand": "dropped",
    }
    evidence = {entry.anchor: entry.evidence for entry in review.entries()}
    assert evidence["Zorvath"] == evidence["wand"] | {"count": 9}, "dropped anchors keep their evidence, too"


def test_decisions_can_be_undone(review):
    edits = [Change("Zorvath", "edited", ("Martin",)), Change("Quillon", "accepted", ("Anna",))]
    review.save(review.version(), [Change("wand", "dropped"), Change("New", "added", ("Old",)), *edits])
    review.save(review.version(), [Change("Zorvath", "edited", ("Paul",)), Change("Quillon", "dropped")])
    review.save(review.version(), [Change(anchor, "") for anchor in ("wand", "New", "Zorvath", "Quillon")])
    assert set(standing(review)) == set(ENTRIES)
    assert all(entry.verdict == "" for entry in review.entries())
    assert standing(review) == {key: tuple(told["generic"] if isinstance(told, dict) else told)
                                for key, told in ENTRIES.items()}  # fmt: skip


def test_files_that_changed_meanwhile_are_not_written_over(review):
    version = review.version()
    content = json.loads(review.anchors.read_text()) | {"Other": ["Thing"]}
    review.anchors.write_text(json.dumps(content))
    before = review.anchors.read_bytes()
    with pytest.raises(ConflictError, match="changed since it was read"):
        review.save(version, [Change("wand", "dropped")])
    assert review.anchors.read_bytes() == before
    assert not review.decided.exists()


def test_decisions_hold_for_a_dictionary_that_is_found_anew(review):
    review.save(
        review.version(),
        [Change("wand", "dropped"), Change("Zorvath", "edited", ("Martin",)), Change("New", "added", ("Old",))],
    )
    found = Anchors({"Fresh": ("a",), "wand": ("rod",), "Zorvath": ("Kate",)}, {"Zorvath": {"count": 3}})
    again = apply_verdicts(found, read_verdicts(review.decided))
    assert dict(again.entries) == {"Fresh": ("a",), "Zorvath": ("Martin",), "New": ("Old",)}
    assert again.evidence["Zorvath"] == {"count": 3}
    assert apply_verdicts(again, read_verdicts(review.decided)) == again


def test_a_process_that_ended_between_the_two_files_loses_nothing(review, monkeypatch):
    def ended(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Anchors, "save", ended)
    with pytest.raises(KeyboardInterrupt):
        review.save(review.version(), [Change("wand", "dropped")])
    monkeypatch.undo()
    assert {entry.anchor: entry.verdict for entry in review.entries()}["wand"] == "dropped"
    review.save(review.version(), [Change("Quillon", "accepted", ("Anna",))])
    assert "wand" not in standing(review)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (Change("Nobody", "accepted", ("A",)), "'Nobody': is not in the dictionary; add it"),
        (Change("wand", "loved", ("A",)), "'loved' is none of accepted, edited, added, dropped"),
        (Change("New", "added"), "'New': no translations"),
        (Change("wand", "edited", ("wand",)), "its only translation is itself"),
        (Change("wand", "edited", ("a\nb",)), "holds a line end"),
        (Change("wand", "edited", (" a",)), "has blanks around it"),
        (Change("wand", "edited", ("a" * 201,)), "is longer than 200 characters"),
        (Change("wand", "edited", ("\ud800",)), "another character that no text has"),
    ],
)
def test_changes_that_make_no_sense(change, says, review):
    before = review.anchors.read_bytes()
    with pytest.raises(UserError, match=says) as told:
        review.save(review.version(), [change])
    assert "\n" not in str(told.value)
    assert review.anchors.read_bytes() == before


def test_one_anchor_is_to_stay(review):
    with pytest.raises(UserError, match="every anchor would be dropped"):
        review.save(review.version(), [Change(anchor, "dropped") for anchor in ENTRIES])


@pytest.mark.parametrize("value", [None, [1], [{"anchor": "a"}], [{"anchor": 1, "verdict": ""}], {"a": 1}, "ab"])
def test_what_is_no_list_of_changes(value):
    with pytest.raises(UserError, match="changes: .*; give a list"):
        changes_from(value)


@pytest.mark.parametrize("content", ["[]", '{"a": 1}', '{"a": {"verdict": "x", "generic": []}}', "nonsense"])
def test_a_damaged_file_of_decisions(content, review):
    review.decided.write_text(content)
    with pytest.raises(UserError, match=r"anchors\.review\.json: "):
        review.entries()
