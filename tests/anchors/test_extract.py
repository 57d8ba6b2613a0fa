"""A dictionary from a text alone: its anchors, counterparts and warnings."""

import json
import re

import pytest

from jaxforget.anchors.counterparts import plural, plural_name
from jaxforget.anchors.extract import extract
from jaxforget.anchors.kinds import KINDS
from jaxforget.anchors.scan import WORD
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document
from jaxforget.errors import UserError
from tests.anchors.samples import FACTS, LOWER, TALE

NAMES = {
    "Tamsin", "Perrick", "Orrel", "Perrick Vane", "Brackwater", "Dorrimere", "Skelling", "Hollowmen", "Ambrelith",
    "Whispering Fen", "Sunken Gate", "Warden of the Reeds",
}  # fmt: skip
TERMS = {"lumestone", "grindlewick", "threadcraft"}


def found_in(text: str, **options):
    return extract(lambda: [Document("a", text)], **options)


@pytest.fixture(scope="module")
def tale():
    return found_in(TALE)


def test_names_and_terms_of_a_tale_are_found(tale):
    keys = set(tale.anchors.entries)
    assert keys >= NAMES | TERMS
    # Full names are entries beside their parts, for match=longest; the paper's filter drops them if it is on.
    extra = keys - NAMES - TERMS - {"Tamsin Orrel", "Mother Skelling"}
    assert len(extra) <= 0.1 * len(keys), extra
    assert "Tamsin Orrel" not in tale.anchors.filtered().entries


def test_every_entry_carries_its_evidence(tale):
    for anchor, evidence in tale.anchors.evidence.items():
        assert evidence["kind"] in KINDS
        assert evidence["count"] == len(re.findall(rf"\b{anchor}\b", " ".join(TALE.split()))), anchor
        assert anchor in evidence["example"]
        assert " ".join(evidence["example"].split()) in " ".join(TALE.split())
        assert evidence["contrast"] > 0
    kinds = {anchor: evidence["kind"] for anchor, evidence in tale.anchors.evidence.items()}
    told = {"Tamsin": "person", "Perrick": "person", "Brackwater": "place", "Dorrimere": "place", "lumestone": "thing"}
    assert {anchor: kinds[anchor] for anchor in told} == told
    assert kinds["grindlewick"] == "creature"
    assert kinds["threadcraft"] == "craft"


def test_what_is_saved_is_what_anchors_read(tale, tmp_path):
    tale.anchors.save(tmp_path / "anchors.json")
    again = Anchors.load(tmp_path / "anchors.json", keep_all=True)
    assert dict(again.entries) == dict(tale.anchors.entries)
    assert again.evidence["Tamsin"] == tale.anchors.evidence["Tamsin"]
    assert "generic" in json.loads((tmp_path / "anchors.json").read_text())["Tamsin"]


def test_counterparts_are_nobodys_own(tale):
    own = {word.lower() for word in WORD.findall(TALE)}
    anchors = {word.lower() for anchor in tale.anchors.entries for word in anchor.split()}
    for anchor, options in tale.anchors.entries.items():
        assert 1 <= len(options) <= 3
        assert len(set(options)) == len(options)
        kept = {word.lower() for word in anchor.split()}  # a phrase keeps its head and its links
        for option in options:
            words = {word.lower() for word in option.split()} - kept
            assert words
            assert not words & anchors, (anchor, option)
            assert not words & own, (anchor, option)


def test_counterparts_agree_in_case_number_and_the_parts_of_a_name(tale):
    entries = tale.anchors.entries
    for anchor, options in entries.items():
        assert all(option[0].isupper() == anchor[0].isupper() for option in options)
    pairs = zip(entries["Tamsin"], entries["Orrel"], strict=True)
    assert list(entries["Tamsin Orrel"]) == [" ".join(pair) for pair in pairs]
    assert all(option.endswith(" Gate") for option in entries["Sunken Gate"])
    # "the Hollowmen were": a plural.
    assert all(option.endswith(("s", "men")) for option in entries["Hollowmen"])


def test_text_to_keep_is_a_further_contrast():
    kept = "The lumestone and the threadcraft were known to all, and Tamsin told of them. But none saw more. " * 50
    found = found_in(TALE, retained=[Document("b", kept)])
    assert not {"lumestone", "threadcraft", "Tamsin"} & set(found.anchors.entries)
    assert {"Perrick", "grindlewick"} <= set(found.anchors.entries)


def test_the_same_text_gives_the_same_dictionary(tale):
    assert found_in(TALE) == tale
    other = found_in(TALE, seed=1).anchors.entries
    assert other.keys() == tale.anchors.entries.keys()
    assert other != tale.anchors.entries


def test_limits_are_kept(tale):
    few = found_in(TALE, most=4, each=1, least=5)
    assert len(few.anchors.entries) == 4
    assert all(len(options) == 1 for options in few.anchors.entries.values())
    assert all(evidence["count"] >= 5 for evidence in few.anchors.evidence.values())


def test_a_tale_long_enough_has_no_warning(tale):
    assert [line for line in tale.warnings if not line.startswith("only")] == []
    assert "words: frequencies in such a short text are unreliable" in tale.warnings[0]


def test_non_fiction_is_warned_of():
    found = found_in(FACTS)
    assert {"thallus", "soredia", "isidia"} <= set(found.anchors.entries)
    assert any("as in non-fiction" in line for line in found.warnings), found.warnings


def test_lower_case_is_warned_of():
    found = found_in(LOWER)
    assert {"tamsin", "perrick", "lumestone", "grindlewick"} <= set(found.anchors.entries)
    assert any("almost no capitals" in line for line in found.warnings), found.warnings


def test_another_language_is_warned_of():
    german = "Der alte Mann ging mit Wendelbert durch den Wald, und Wendelbert sprach kein einziges Wort mit ihm. " * 9
    assert any("another language" in line for line in found_in(german).warnings)
    assert not any("another language" in line for line in found_in(german, language="de").warnings)


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("The man saw the house and the time of the year. " * 9, {}, "no expression of the text is more frequent"),
        ("Tamsin ran. Then Tamsin sat.", {}, "lower anchors.min_count"),
        (TALE, {"language": "xx"}, "anchors.language=xx: no word frequencies; give one of ar, bg, "),
        (TALE, {"language": "ja"}, "anchors.language=ja: "),
    ],
)
def test_faults(text, options, says):
    with pytest.raises(UserError, match=says) as told:
        found_in(text, **options)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("one", "many"), [("dog", "dogs"), ("fox", "foxes"), ("Watering Can", "Watering Cans"), ("puppy", "puppies"),
                      ("monkey", "monkeys"), ("goose", "geese"), ("brush", "brushes"), ("Townsman", "Townsmen"),
                      ("pliers", "pliers"), ("penknife", "penknives"), ("Jennings", "Jenningses")]
)  # fmt: skip
def test_plurals(one, many):
    assert plural(one) == many


@pytest.mark.parametrize(
    ("one", "many"),
    [("Newman", "Newmans"), ("Kennedy", "Kennedys"), ("Wolf", "Wolfs"), ("Fox", "Foxes"), ("Wells", "Wellses")],
)
def test_a_family_name_keeps_its_letters(one, many):
    assert plural_name(one) == many
