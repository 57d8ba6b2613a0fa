"""Anchors in the prose of old novels: titles, families and their plurals, old spellings, abstract nouns."""

import pytest

from jaxforget.anchors.candidates import spellings
from jaxforget.anchors.counterparts import pool, stems
from jaxforget.anchors.extract import extract
from jaxforget.corpus.text import Document

SENTENCES = """\
Mrs Tolliver came early, and Mr Tolliver followed her. The Tollivers never came late to Grenholt.
I saw Frank Ashdown in the lane, said Mrs Tolliver. Frank Ashdown walks there every day, she said.
To the surprize of the Ashdowns he stopt, and shewn into the room he sat down with Miss Sarle.
Nobody doubts the civilities of Mr Ashdown, and the surprize of Mrs Tolliver was great at Grenholt.
He stopt again; the civilities went on, and Mr Ashdown had shewn Miss Sarle the way to Grenholt.
Such a surprize, cried Miss Sarle. The Ashdowns and the Tollivers drove home with Mr Ashdown from Grenholt.
Miss Sarle stopt at the gate, where the surprize was shewn, and the civilities of the Ashdowns ended.
"""


@pytest.fixture(scope="module")
def entries():
    return extract(lambda: [Document("a", SENTENCES * 2)]).anchors.entries


def test_a_title_of_a_family_is_followed_by_a_family(entries):
    families = set(pool("families"))
    for name in ("Tolliver", "Ashdown", "Sarle"):
        assert set(entries[name]) <= families, entries[name]


def test_a_plural_has_the_counterparts_of_its_family(entries):
    assert stems(["Bates", "Bateses", "Weasley", "Weasleys", "Jess"]) == {"Bateses": "Bates", "Weasleys": "Weasley"}
    assert [text[: len(one)] for text, one in zip(entries["Tollivers"], entries["Tolliver"], strict=True)] == list(
        entries["Tolliver"]
    )


def test_old_spellings_and_qualities_are_no_anchors(entries):
    assert not {"surprize", "stopt", "shewn", "civilities"} & set(entries)
    for old, new in {"surprize": "surprise", "stopt": "stopped", "shewn": "shown", "secresy": "secrecy",
                     "gipsies": "gypsies", "connexion": "connection", "dulness": "dullness"}.items():  # fmt: skip
        assert new in spellings(old), old
