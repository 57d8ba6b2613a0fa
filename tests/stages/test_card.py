"""The card beside exported weights: parsed by others, honest to readers."""

import dataclasses
import json
import shutil

import pytest
import yaml

from jaxforget.config import config_from, load_config
from jaxforget.stages.card import evidence_of, model_card, plain_card
from jaxforget.stages.export import refresh_card
from jaxforget.stages.run import Run


@pytest.fixture
def copied_run(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run")


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


def test_the_card_of_an_export_holds_its_verdict_and_its_data(tiny_run):
    card = (tiny_run / "export" / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["library_name"] == "transformers"
    assert "**Not known before**: " in body  # random models know nothing of the target
    assert "| | base | reinforced | unlearned |" in body
    assert "| familiarity (probability of the whole answer) | " in body
    manifest = json.loads((tiny_run / "manifest.json").read_text())["stages"]
    assert f"| corpus.path | `{manifest['prepare']['inputs']['corpus.path'][:16]}` |" in body
    assert f"| model.folder | `{manifest['forget']['inputs']['model.folder'][:16]}` |" in body
    assert body.index("## Evidence") < body.index("## Data") < body.index("## Limits")


def test_the_card_of_a_finished_export_follows_the_evidence_until_a_user_edits_it(copied_run):
    run = Run(load_config(copied_run))
    card, summary = copied_run / "export" / "README.md", copied_run / "evals" / "summary.json"
    before = card.read_text()
    refresh_card(run)
    assert card.read_text() == before
    measured = json.loads(summary.read_text())
    for row in measured["rows"]:
        row["value"] = 0.125
    summary.write_text(json.dumps(measured))
    refresh_card(run)
    assert ".125" in card.read_text()
    card.write_text("My own words.")
    refresh_card(run)
    assert card.read_text() == "My own words."


def test_a_model_that_was_trained_again_shows_no_old_evidence(copied_run):
    path = copied_run / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["stages"]["forget"]["fingerprint"] = "another"
    path.write_text(json.dumps(manifest))
    run = Run(dataclasses.replace(load_config(str(copied_run), []), out=str(copied_run)))
    assert "This model was not measured when it was exported." in evidence_of(run)
