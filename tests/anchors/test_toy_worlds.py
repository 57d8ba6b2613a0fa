"""Anchors found in the texts of three toy worlds with known names and terms, without dictionary or model."""

import pytest

from jaxforget.anchors.extract import extract
from jaxforget.corpus.text import Document
from jaxforget.demo.world import make_universes, training_text


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recall_and_precision(seed):
    universes = make_universes(seed)
    texts = training_text(universes, seed)
    target = [Document(name, text) for name, text in texts.items() if name.startswith("text/target/")]
    found, true = set(extract(lambda: target).anchors.entries), set(universes[0].all_terms())
    assert len(found & true) >= 0.95 * len(true), true - found
    assert len(found & true) >= 0.90 * len(found), found - true
