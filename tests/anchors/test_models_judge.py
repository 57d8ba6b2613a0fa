"""Evidence of the models: the gain of a word, and the passages that are scored."""

import numpy as np

from jaxforget.anchors.models_judge import Passage, sample_evenly, word_gains


def passage(text: str, *pieces: str, bos: bool) -> Passage:
    ranges, at = [], 0
    for piece in pieces:
        ranges.append((at, at + len(piece)))
        at += len(piece)
    assert "".join(pieces) == text
    ids = tuple(range(len(pieces)))
    return Passage(text, (99, *ids) if bos else ids, tuple(ranges))


def test_a_words_gain_is_that_of_its_tokens():
    text = "Zor's cat met Zor"
    pieces = ("Zo", "r", "'s", " cat", " met", " Z", "or")
    before = np.zeros(7, np.float32)
    rise = np.array([1, 2, 4, 8, 16, 32, 64], np.float32)
    gains = word_gains([passage(text, *pieces, bos=True)], [before], [rise])
    assert gains.words == {"Zor": ((1 + 2 + 32 + 64) / 2, 2), "cat": (8.0, 1), "met": (16.0, 1)}
    assert gains.mean == (3 + 8 + 16 + 96) / 4
    # Without a BOS the first token has no prediction, so the first word has an incomplete score.
    alone = word_gains([passage(text, *pieces, bos=False)], [before[1:]], [rise[1:]])
    assert alone.words["cat"] == (8.0, 1)
    assert alone.words["Zor"] == (96.0, 1)
    assert set(alone.words) == {"Zor", "cat", "met"}


def test_passages_are_sampled_evenly():
    passages = [passage("ab", "a", "b", bos=True) for _ in range(100)]
    assert sample_evenly(passages, 10_000) == passages
    few = sample_evenly([Passage(str(i), (1, 2, 3), ()) for i in range(100)], 30)
    assert [one.text for one in few] == [str(int(at)) for at in np.linspace(0, 99, 10)]
