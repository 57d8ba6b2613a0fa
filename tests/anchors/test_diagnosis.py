"""Diagnosis of a dictionary with known faults."""

import numpy as np
import pytest

from jaxforget.anchors.diagnosis import REACH, Diagnosis, diagnose, hidden_keys
from jaxforget.corpus.blocks import count_anchors, within_reach
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document
from jaxforget.corpus.translate import Choice, Rule, Translator
from tests.corpus.toy_text import make_tokenizer

ENTRIES = {
    "Kalo": ("Menra", "Quilzar"),
    "Kalo Thabor": ("Menra Dun",),
    "Fithagar": ("Old Kalo", "Zarren"),
    "Warden of Reeds": ("Warden of Bells",),
    "Nowhere": ("Jowen",),
    "Thabor": ("Fithagar",),
}
TEXT = "Then Kalo Thabor went to Fithagar. Kalo saw the Warden of Reeds and Thabor. " * 3


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer("llama2")


def looked_over(tokenizer, match="first", retained=None) -> Diagnosis:
    anchors = Anchors(ENTRIES)
    counts = count_anchors([Document("a", TEXT)], tokenizer, Translator(anchors, tokenizer, match=match))
    return diagnose(anchors, tokenizer, counts, coverage=0.5, match=match, retained=retained)


def test_keys_that_never_match_and_those_that_others_hide(tokenizer):
    found = looked_over(tokenizer)
    assert found.never == ("Nowhere",)
    assert found.hidden == {"Kalo Thabor": "Kalo"}
    assert found.occurrences == 3 * 6  # Kalo and Thabor twice each, Fithagar, Warden of Reeds
    longest = looked_over(tokenizer, match="longest")
    assert longest.never == ("Nowhere",)
    assert not longest.hidden
    assert longest.occurrences == 3 * 5


def test_a_key_is_hidden_only_if_every_form_of_it_is():
    choices = (Choice((9,), (9,)),)
    rules = [Rule(0, (1,), choices), Rule(1, (1, 2), choices), Rule(1, (3, 2), choices), Rule(2, (1, 5), choices)]
    assert hidden_keys(rules, ("a", "b", "c")) == {"c": "a"}
    # An earlier key is never hidden by a later one.
    assert hidden_keys([Rule(0, (1, 2), choices), Rule(1, (1,), choices)], ("long", "short")) == {}


def test_translations_that_are_anchors(tokenizer):
    assert looked_over(tokenizer).clashes == (("Fithagar", "Old Kalo", "Kalo"), ("Thabor", "Fithagar", "Fithagar"))


def test_translations_that_split_oddly(tokenizer):
    strange = Anchors({"Kalo": ("Zarren", "Xqvbxqvbxqvb", "日本")})
    odd = {text: why for _, text, why in diagnose(strange, tokenizer, {"Kalo": 1}, coverage=0.0).odd}
    assert set(odd) == {"Xqvbxqvbxqvb", "日本"}
    assert all(why.endswith(" tokens") for why in odd.values())
    metaspace = make_tokenizer("metaspace")  # it has no byte tokens, so it cannot express every text
    odd = {text: why for _, text, why in diagnose(strange, metaspace, {"Kalo": 1}, coverage=0.0).odd}
    assert "日本" in odd
    assert not odd["日本"].endswith(" tokens")


def test_text_to_keep_most_met_first(tokenizer):
    found = looked_over(tokenizer, retained={"Kalo": 2, "Thabor": 7, "Nowhere": 0})
    assert list(found.retained.items()) == [("Thabor", 7), ("Kalo", 2)]


def test_reach_is_that_of_every_anchor_in_its_block():
    spans = np.array([[2, 3, 0], [5, 1, 1]])
    reached = within_reach(200, spans)
    assert np.flatnonzero(reached).tolist() == list(range(2, 6 + REACH))
    assert not within_reach(10, np.zeros((0, 3), int)).any()
    assert within_reach(4, np.array([[3, 1, 0]])).tolist() == [False, False, False, True]


def test_the_table_is_short_and_says_nothing_of_what_is_well(tokenizer):
    lines = looked_over(tokenizer, retained={"Kalo": 1200}).lines()
    assert [line.split()[0] for line in lines] == ["anchors", "coverage", "never", "hidden", "retained", "clashes"]
    assert lines[0] == "anchors   6 with 18 occurrences in the target"
    assert lines[1] == f"coverage  50% of positions are at most {REACH} tokens after an anchor"
    assert lines[3] == "hidden    1 never match because another matches first: Kalo Thabor (by Kalo)"
    assert "Kalo 1,200" in lines[4]
    fine = diagnose(Anchors({"Kalo": ("Zarren",)}), tokenizer, {"Kalo": 3}, coverage=1.0)
    assert [line.split()[0] for line in fine.lines()] == ["anchors", "coverage"]
    many = Diagnosis(20, 0, 0.0, never=tuple(f"A{i}" for i in range(20)))
    assert many.lines()[2] == "never     20 do not occur: A0, A1, A2, A3, A4, A5 ..."
