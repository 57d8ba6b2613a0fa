"""One pass over a text, compared with counts made by hand."""

from jaxforget.anchors import scan as module
from jaxforget.anchors.scan import MID, START, UNSURE, _place, scan, sentences
from jaxforget.corpus.text import Document


def scanned(text: str):
    return scan([Document("a", text)])


def test_places_of_a_capital():
    found = scanned('Anna saw Bo. "Bo is here," said Anna, and Bo\nleft.\n\nBo\'s hat, Mr. Bo (Bo) and co-op.')
    assert found.places["Bo"][MID] == 4  # saw Bo, and Bo, Mr. Bo, (Bo
    assert found.places["Bo"][START] == 2  # after a quotation mark; at the paragraph's start, without its 's
    assert found.places["Anna"] == (1, 1, 0)
    assert found.places["left"] == (0, 0, 1)
    assert found.places["co-op"] == (1, 0, 0)
    assert found.folded["bo"] == 6
    assert found.words == sum(found.folded.values()) == sum(map(sum, found.places.values()))


def test_what_cannot_be_said_is_counted_as_such():
    assert scanned("one\nTwo 3").places["Two"][UNSURE] == 1
    assert scanned("one 3 Three").places["Three"][UNSURE] == 1


def test_runs_of_capitals():
    text = (
        "We saw Anna Bell and the Order of the Bath. Then Anna Bell left Port of Hull. "
        "Anna, Bell and IBM Corp met Anna's Bell's cat of the year. They read Vincent van Gogh's letters."
    )
    runs = scanned(text).runs
    assert runs[MID, ("Anna", "Bell")] == 1
    assert runs[START, ("Then", "Anna", "Bell")] == 1
    assert runs[MID, ("Order", "of", "the", "Bath")] == 1
    assert runs[MID, ("Port", "of", "Hull")] == 1
    assert runs[MID, ("Anna's", "Bell")] == 1
    assert runs[MID, ("Vincent", "van", "Gogh")] == 1
    assert len(runs) == 6, runs


def test_lines_cut_at_a_width_are_one_sentence():
    wrapped = "We went to the Whispering\nFen and slept in the\nhouse of Anna\nBell that night,\nand sang."
    found = scanned(wrapped)
    assert set(found.runs) == {(MID, ("Whispering", "Fen")), (MID, ("Anna", "Bell"))}
    assert [wrapped[a:b] for a, b in sentences(wrapped)] == [wrapped]
    lines = "A cold day.\nAnna sang.\nBell rang.\nBo left.\nWe saw Anna\nBell"
    assert not scanned(lines).runs


def test_documents_do_not_join():
    found = scan([Document("a", "We met Anna"), Document("b", "Bell rang")])
    assert not found.runs
    assert found.places["Bell"] == (0, 1, 0)


def test_shares_of_capitals():
    assert scanned("the cat saw Anna and Bo.").capitals() == 2 / 5
    assert scanned("the cat. The dog. it ran.").opened() == 1 / 3
    assert scanned("").capitals() == 0


def test_sentences_cover_the_text():
    text = 'Mr. Bo left. "Why?" asked Anna.\nShe ran…  Then she sat\n\nA new one'
    parts = [text[a:b] for a, b in sentences(text)]
    assert "".join(parts) == text
    assert [part.strip() for part in parts] == [
        "Mr. Bo left.",
        '"Why?"',
        "asked Anna.",
        "She ran…",
        "Then she sat",
        "A new one",
    ]


def test_gaps_are_classified_once_a_document(monkeypatch):
    """A long text repeats a few gaps between words, so the slow classification must not run for every word."""
    gaps = []
    monkeypatch.setattr(module, "_place", lambda gap, *, whole: gaps.append(gap) or _place(gap, whole=whole))
    page = "When Tamsin Orrel came to Brackwater, the old men of the town were asleep, and nobody saw her pass. " * 1000
    assert scan(Document(str(i), page) for i in range(3)).words > 50_000
    assert sorted(gaps) == sorted(["", " ", ", ", ". "] * 3)
