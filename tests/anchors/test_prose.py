"""Anchors in the prose of old novels: whole names, titles, gender, families, places, old and ordinary words."""

import pytest

from jaxforget.anchors.candidates import find_candidates
from jaxforget.anchors.counterparts import pool, stems
from jaxforget.anchors.extract import extract
from jaxforget.anchors.forms import spellings
from jaxforget.anchors.general import General, frequencies, given_names
from jaxforget.anchors.scan import scan
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


STORY = """\
Mr. Robert Holt had left Fenwold early. "Robert Holt never told me," said Marietta. She looked at Mrs. Holt and sighed.
In June the Admiral dined with Lady Agnes de Varr at Fenwold Hall, and Marietta came with her brother. Robert was ill.
Old Michaelmas came, and with it chapter XVII of the story. The pianoforte was sold. Marietta saw Robert at Ox Hill.
Lady Agnes de Varr drove to Ox Hill with Robert Holt. They met Admiral Stroud, whose sister she was, said Marietta.
"He is at the Cottage," cried Robert; and Mrs. Holt, who had walked to Ox Hill, sat down with the Admiral and Marietta.
Miss Pell and the Pells went to Fenwold Hall. Robert Holt had asked for Miss Pell; Robert told Marietta of it at once.
The Cottage was small. Lady Agnes was at Ox Hill with Mr. Pell and Robert Holt, and Robert did not see Admiral Stroud.
Marietta laughed. Her pianoforte was at Fenwold, and the Admiral played it for the Pells at Michaelmas. Poor Mr. Pell!
"""
PLAIN = "The man and the woman walked along the road to the house, and they said that it was late. " * 2000


@pytest.fixture(scope="module")
def story():
    return extract(lambda: [Document("a", STORY * 3 + PLAIN)]).anchors


def test_whole_names_and_common_first_names_are_anchors(story):
    keys = set(story.entries)
    assert {"Robert Holt", "Robert", "Holt", "Ox Hill", "Fenwold Hall", "Fenwold", "Marietta", "Pell", "Pells"} <= keys


def test_feasts_titles_numerals_heads_and_rare_ordinary_words_are_no_anchors(story):
    words = {"Michaelmas", "Admiral", "XVII", "Cottage", "Hill", "Hall", "pianoforte"}
    assert not words & set(story.entries)


def test_counterparts_have_the_gender_of_the_name(story):
    male, female = set(pool("people_male")), set(pool("people_female"))
    assert set(story.entries["Robert"]) <= male
    assert {option.split()[0] for option in story.entries["Robert Holt"]} <= male
    assert set(story.entries["Marietta"]) <= female  # her brother's pronouns stand near, but her name ends in a
    assert {option.split()[0] for option in story.entries["Agnes de Varr"]} <= female


def test_a_name_behind_de_is_a_familys_and_a_place_keeps_its_head(story):
    assert set(story.entries["Varr"]) <= set(pool("families"))
    towns = set(pool("towns"))
    assert all(option.removesuffix(" Hall") in towns for option in story.entries["Fenwold Hall"])
    assert all(option.endswith(" Hill") for option in story.entries["Ox Hill"])


def test_a_word_that_the_retained_text_lacks_stays_an_anchor():
    general = General({}, {"other": 400}, 1000)
    assert general.over_retained("pells", 7, 2000) is None
    assert general.over_retained("other", 7, 2000) < 0


def test_a_retained_text_may_hold_the_words_of_a_name_apart(story):
    kept = "The ox stood on the hill, and an ox went up the hill to the hall. " * 200
    found = extract(lambda: [Document("a", STORY * 3 + PLAIN)], retained=[Document("b", kept)]).anchors.entries
    assert "Ox Hill" in found
    found = extract(lambda: [Document("a", STORY * 3 + PLAIN)], retained=[Document("b", kept + "At Ox Hill. " * 90)])
    assert "Ox Hill" not in found.anchors.entries


@pytest.mark.parametrize(("times", "kept"), [(4, False), (5, True)])
def test_an_ordinary_word_of_a_short_text_must_recur(times, kept):
    found = scan([Document("a", "They spoke to the curate of it. " * times + PLAIN[:9000])])
    words = {one.text for one in find_candidates(found, General(frequencies("en")))}
    assert ("curate" in words) == kept


def test_first_names_that_are_only_recognised_are_never_counterparts():
    for gender in ("male", "female"):
        assert not set(pool(f"given_{gender}")) & set(pool(f"people_{gender}"))
        assert given_names(gender) == set(pool(f"given_{gender}")) | set(pool(f"people_{gender}"))
