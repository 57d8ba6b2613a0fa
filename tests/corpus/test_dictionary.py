import json

import pytest

from jaxforget.corpus.dictionary import Anchors, Finder
from jaxforget.errors import UserError


def write(tmp_path, text):
    path = tmp_path / "anchors.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_filter_judges_against_the_unfiltered_dictionary(tmp_path):
    entries = {
        "Harry Potter": ["Jon Smith"],
        "Harry": ["Jon"],
        "Potter": ["Smith"],
        "Harry's": ["Jon's"],
        "Hogwarts": ["Mystic Academy"],
        "Hogwarts Express": ["Mystic Train"],
        "Weasley's": ["Miller's"],
        # It is dropped although its last word is dropped, too, because the filter compares with the unfiltered keys.
        "Potter Harry's": ["x"],
    }
    path = write(tmp_path, json.dumps(entries))
    anchors = Anchors.load(path)
    assert list(anchors.entries) == ["Harry", "Potter", "Hogwarts", "Hogwarts Express", "Weasley's"]
    assert anchors.entries["Hogwarts"] == ("Mystic Academy",)
    assert set(anchors.dropped) == {"Harry Potter", "Harry's", "Potter Harry's"}
    assert anchors.dropped["Harry's"] == "possessive of 'Harry'"
    assert "'Harry', 'Potter'" in anchors.dropped["Harry Potter"]
    kept = Anchors.load(path, keep_all=True)
    assert list(kept.entries) == list(entries)
    assert kept.filtered() == anchors


def test_values_of_every_form_and_repeats_keep_all_distinct_translations(tmp_path):
    path = write(
        tmp_path,
        '{"a": "x", "b": ["y", "z", "y"], "a": ["w", "x"],'
        ' " c ": {"generic": ["v"], "seen": {"n": 2}}, "a": {"generic": "u", "verdict": true}}',
    )
    anchors = Anchors.load(path)
    assert anchors.entries == {"a": ("x", "w", "u"), "b": ("y", "z"), "c": ("v",)}
    assert anchors.evidence == {"c": {"seen": {"n": 2}}, "a": {"verdict": True}}
    assert any("more than once" in note for note in anchors.notes)
    anchors.save(tmp_path / "again.json")
    again = Anchors.load(tmp_path / "again.json")
    assert (again.entries, again.evidence) == (anchors.entries, anchors.evidence)


def test_an_anchor_that_is_its_only_translation_is_noted(tmp_path):
    anchors = Anchors.load(write(tmp_path, '{"wand": ["wand"], "owl": ["owl", "bird"]}'))
    assert anchors.notes == ("'wand': equals its only translation, so it unlearns nothing",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "no anchors"),
        ("", "line 1 column 1: not JSON"),
        ('{"a": ["x"],}', "not JSON"),
        ('["a"]', "is no object of anchors; write an anchor as"),
        ('{"a": 3}', "'a': it is 3, but must be a string, a list of strings, or an object"),
        ('{"a": null}', "'a': it is null, but must be a string"),
        ('{"a": []}', "'a': generic is a list, but must have at least 1 item"),
        ('{"a": ["x", 1]}', "'a': generic[1] is 1, but must be a string"),
        ('{"a": [["x"]]}', "'a': generic[0] is ['x'], but must be a string"),
        ('{"a": [" "]}', "'a': generic[0] is ' ', but must be a text that is not empty"),
        ('{" ": ["x"]}', "an anchor is empty"),
        ('{"a": {"note": 1}}', "'a': no field 'generic'"),
        ('{"a": ["\\ud800"]}', "'a': generic[0] is '\\ud800', but must not hold half of a \\u surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_faults_name_the_file_and_the_key_in_one_line(tmp_path, text, message):
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        Anchors.load(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_folder_and_wrong_encoding(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        Anchors.load(tmp_path / "none.json")
    with pytest.raises(UserError, match="is a folder"):
        Anchors.load(tmp_path)
    path = tmp_path / "latin.json"
    path.write_bytes('{"é": "x"}'.encode("latin-1"))
    with pytest.raises(UserError, match="latin.json: not UTF-8 at byte 2"):
        Anchors.load(path)


def test_anchors_are_counted_in_text_whatever_divides_their_words():
    text = "Harry Potter, Harry\nPotter and Harry \n  Potter; Harry\n\nPotter. Harrying Potters; "
    text += "Mrs. Weasley's house-elves"
    keys = ["Harry Potter", "Harry", "Potter", "Mrs. Weasley", "house-elves", "house"]
    assert Finder(keys).count(text) == {"Harry Potter": 3, "Harry": 1, "Potter": 1, "Mrs. Weasley": 1, "house-elves": 1}
    assert Finder(["Harry", "Harry Potter"]).count(text) == {"Harry": 4}
    assert Finder(["Harry", "Harry Potter"], longest=True).count(text) == {"Harry": 1, "Harry Potter": 3}
