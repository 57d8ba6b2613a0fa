"""Candidates judged by contrast and by the models' gains."""

from jaxforget.anchors.candidates import Candidate, Gains, weigh


def test_gains_decide_what_counts_alone_would_not():
    gains = Gains(0.1, {"wand": (0.4, 9), "lamp": (0.01, 9), "Oldname": (0.0, 9), "grove": (0.9, 9), "rare": (0.9, 1)})

    def candidate(text, excess, name=False):
        return Candidate(text, 9, 8.0, excess, name)

    given = [
        candidate("wand", 1.0),
        candidate("lamp", 1.0),  # an ordinary word that training did not raise: dropped
        candidate("Oldname", 1.0, name=True),  # its capital is evidence enough: kept
        candidate("grove", -1.5),  # too little contrast, but a large gain: kept
        candidate("Oldname", -1.5, name=True),  # too little contrast and gain: dropped
        candidate("rare", -0.5),  # scored too rarely, so contrast alone decides: dropped
        candidate("unseen", 0.5),
    ]
    assert {one.text for one in weigh(given, gains)} == {"wand", "Oldname", "grove", "unseen"}
    assert len(weigh(given, gains)) == 4
    assert {one.text for one in weigh(given, None)} == {"wand", "lamp", "Oldname", "unseen"}
