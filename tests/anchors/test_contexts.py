"""Repeated contexts, compared with counts made by hand."""

import pytest

from jaxforget.anchors.contexts import find_contexts, variety
from jaxforget.anchors.extract import extract
from jaxforget.corpus.text import Document
from tests.anchors.samples import TALE


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("The old lamps were lit. She bought two lamps in town. ", 1.0),
        # Words of the next sentence and upper case do not matter.
        ("All the lamps were lit. One. All the lamps were lit. Two. ALL the lamps were lit.", 1 / 3),
        ("All the lamps were lit. Then all the lamps were lit. All his lamps were lit.", 2 / 3),
        ("The lamps! The lamps! The lamps!", 1.0),  # one word around it is too few to compare
        ("", 1.0),
    ],
)
def test_variety(text, share):
    found = find_contexts([Document("a", text)], {"lamps": text.count("lamps")})["lamps"]
    assert len(found) == text.count("lamps")
    assert variety(found) == pytest.approx(share)


def test_a_refrain_makes_no_term_of_its_ordinary_words():
    refrain = "Far below stood the lamp, and in the dark shone the lumestone. "
    told = [
        "It was a lamp without oil.",
        "She bought every lamp in town.",
        "No lamp has been here.",
        "A lamp must burn.",
    ]
    told += [
        "Who carries the lamp at night?",
        "They saw one lamp in a tree.",
        "My lamp was very old.",
        "Is that lamp his?",
    ]

    def keys(text: str) -> set[str]:
        return set(extract(lambda: [Document("a", text)]).anchors.entries)

    assert "lamp" in keys(TALE + " ".join(told))
    sung = keys(TALE + refrain * len(told))
    assert "lamp" not in sung
    assert "lumestone" in sung  # a word that general language does not contain
