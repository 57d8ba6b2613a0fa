"""The card beside exported weights: parsed by others, honest to readers."""

import yaml

from jaxforget.config import config_from
from jaxforget.stages.card import model_card, plain_card


def test_the_card_names_the_recipe_and_its_limits():
    config = config_from(
        {"model": {"folder": "owner/name"}, "corpus": {"path": "books"}, "anchors": {"path": "a.json"}}
    )
    card = model_card(config, "unlearned: 120 steps towards generic labels")
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {"library_name": "transformers", "tags": ["unlearning", "jaxforget"]}
    assert body.startswith("# unlearned: 120 steps")
    for row in ("base | owner/name", "text to forget | books", "argmax of equation 1, alpha 5", "no retain term"):
        assert f"| {row} |" in body
    assert "128 blocks of 512 tokens a step" in body
    assert "control" in body.partition("## Limits")[2]


def test_the_card_says_what_was_retained():
    retain = {"path": "other", "weight": 2.0, "rows": 8}
    assert "| retained | KL from base, weight 2, on other |" in model_card(config_from({"retain": retain}), "x")


def test_a_model_that_forgot_nothing_is_not_said_to_have():
    card = plain_card("base trained 3 steps further on a text", "owner/name")
    assert "unlearning" not in card
    assert "alpha" not in card
    assert "owner/name" in card
