"""Anchors found by counts and by the models: what the stage writes and says."""

import numpy as np
import pytest

from jaxforget.anchors.candidates import Candidate, Gains, weigh
from jaxforget.config import config_from
from jaxforget.corpus.dictionary import Anchors
from jaxforget.stages.anchors import anchors
from jaxforget.stages.anchors_judged import Passage, sample, word_gains
from jaxforget.stages.run import Run
from tests.tiny_run import HEROES, PLACES, settings


def run_of(world, folder, **more) -> Run:
    given = {"path": None, **more}
    model = {"reinforced": str(world / "control")}
    return Run(config_from(settings(world, folder, anchors=given, model=model)))


@pytest.mark.parametrize("extractor", ["statistics", "models"])
def test_names_of_the_text_are_found(extractor, tiny_world, tmp_path, capsys):
    run = run_of(tiny_world, tmp_path, extractor=extractor)
    anchors(run)
    found = Anchors.load(run.anchors, keep_all=True)
    assert set(found.entries) == {*HEROES, *PLACES}
    for evidence in found.evidence.values():
        assert ("gain" in evidence) == (extractor == "models")
    said = capsys.readouterr().err
    assert f"finding anchors in the text ({extractor})" in said
    assert f"review them: jaxforget anchors review {tmp_path}" in said
    assert "warning: only" in said


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
    # Without a BOS the first token is not predicted, and the first word not judged whole.
    alone = word_gains([passage(text, *pieces, bos=False)], [before[1:]], [rise[1:]])
    assert alone.words["cat"] == (8.0, 1)
    assert alone.words["Zor"] == (96.0, 1)
    assert set(alone.words) == {"Zor", "cat", "met"}


def test_passages_are_sampled_evenly():
    passages = [passage("ab", "a", "b", bos=True) for _ in range(100)]
    assert sample(passages, 10_000) == passages
    few = sample([Passage(str(i), (1, 2, 3), ()) for i in range(100)], 30)
    assert [one.text for one in few] == [str(int(at)) for at in np.linspace(0, 99, 10)]


def test_gains_decide_what_counts_alone_would_not():
    gains = Gains(0.1, {"wand": (0.4, 9), "lamp": (0.01, 9), "Oldname": (0.0, 9), "grove": (0.9, 9), "rare": (0.9, 1)})

    def candidate(text, excess, name=False):
        return Candidate(text, 9, 8.0, excess, name)

    given = [
        candidate("wand", 1.0),
        candidate("lamp", 1.0),  # an ordinary word that training did not raise: dropped
        candidate("Oldname", 1.0, name=True),  # its capital speaks for it
        candidate("grove", -1.5),  # too little contrast, but raised much
        candidate("Oldname", -1.5, name=True),  # too little of both
        candidate("rare", -0.5),  # asked too seldom to be judged
        candidate("unseen", 0.5),
    ]
    assert {one.text for one in weigh(given, gains)} == {"wand", "Oldname", "grove", "unseen"}
    assert len(weigh(given, gains)) == 4
    assert {one.text for one in weigh(given, None)} == {"wand", "lamp", "Oldname", "unseen"}
