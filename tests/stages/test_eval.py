"""Tables, completions and the labelled passage."""

import json
import shutil

import numpy as np
import pytest

import jaxforget
from jaxforget.config import load_config
from jaxforget.corpus.batches import open_blocks
from jaxforget.evals.familiarity import ANSWER
from jaxforget.evals.probability import PERPLEXITY
from jaxforget.pipeline import run_chain
from tests.tiny_run import BLOCK


@pytest.fixture(scope="module")
def base(tiny_world):
    return jaxforget.load(tiny_world / "base")


def test_the_passage_shows_the_labels_that_the_method_gives(tiny_run, base):
    shown = json.loads((tiny_run / "evals" / "passage.json").read_text())
    number = int(shown["document"].split("block ")[1].split(" ")[0])
    split = shown["document"].rsplit(" ", 1)[1]
    tokens = np.asarray(open_blocks(tiny_run / "blocks" / "target", split)[number]["tokens"])
    pieces = base.tokenizer.convert_ids_to_tokens
    assert [token["text"] for token in shown["tokens"]] == pieces(tokens.tolist())
    reinforced = jaxforget.load(tiny_run / "reinforced")
    record = open_blocks(tiny_run / "blocks" / "target", split)[number]
    names = ("translated", "position_map", "suppress_ids", "suppress_from")
    block = type("Translation", (), {name: np.asarray(record[name]) for name in names})
    labels = jaxforget.generic_labels(base, reinforced, tokens, block)
    expected = [None if label < 0 else pieces(int(label)) for label in labels]
    assert [token["label"] for token in shown["tokens"]] == expected
    anchored = "".join(token["text"] for token in shown["tokens"] if token["anchor"]).replace("▁", "")
    assert "Zorvath" in anchored or "Quillon" in anchored
    assert "sang" not in anchored


def test_summary_and_curve_agree_where_they_measure_the_same(tiny_run):
    rows = json.loads((tiny_run / "evals" / "summary.json").read_text())["rows"]
    value = {(row["model"], row["metric"]): row["value"] for row in rows}
    curve = json.loads((tiny_run / "evals" / "curve.json").read_text())["rows"]
    for model, row in (("base", curve[0]), ("unlearned", curve[-1])):
        for metric in ("familiarity", "retained", "perplexity"):
            assert value[model, metric] == pytest.approx(row[metric], rel=1e-4)
    for row in rows:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["n"] == (8 if row["metric"] == "perplexity" else 2)
    conventions = {row["metric"]: row["convention"] for row in rows}
    assert conventions["familiarity"] == conventions["retained"] == ANSWER
    assert conventions["perplexity"] == PERPLEXITY.format(length=BLOCK)


def test_every_question_and_token_has_its_probability_under_the_models(tiny_run):
    rows = json.loads((tiny_run / "evals" / "summary.json").read_text())["rows"]
    value = {(row["model"], row["metric"]): row["value"] for row in rows}
    questions = json.loads((tiny_run / "evals" / "questions.json").read_text())["questions"]
    for kind in ("familiarity", "retained"):
        asked = [question["probability"] for question in questions if question["kind"] == kind]
        for model in ("base", "reinforced", "unlearned"):
            assert np.mean([some[model] for some in asked]) == pytest.approx(value[model, kind], rel=1e-6)
    tokens = json.loads((tiny_run / "evals" / "passage.json").read_text())["tokens"]
    assert "probability" not in tokens[0]
    assert all(0 <= token["probability"]["base"] <= 1 for token in tokens[1:])


def test_other_questions_leave_no_older_curve(tiny_run, tiny_world, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    probes = json.loads((tiny_world / "probes.json").read_text())
    probes["familiarity"] = probes["familiarity"][:1]
    (tmp_path / "probes.json").write_text(json.dumps(probes))
    words = [f"out={copy}", f"evals.probes={tmp_path / 'probes.json'}", f"model.control={tiny_world / 'control'}"]
    run_chain(load_config(copy, words), ("eval",))
    rows = json.loads((copy / "evals" / "summary.json").read_text())["rows"]
    value = {(row["model"], row["metric"]): row["value"] for row in rows}
    curve = json.loads((copy / "evals" / "curve.json").read_text())["rows"]
    before = json.loads((tiny_run / "evals" / "curve.json").read_text())["rows"]
    assert [row["step"] for row in curve] == [0, before[-1]["step"]]
    for model, row, old in (("base", curve[0], before[0]), ("unlearned", curve[-1], before[-1])):
        assert row["familiarity"] == pytest.approx(value[model, "familiarity"], rel=1e-4)
        assert row["familiarity"] != pytest.approx(old["familiarity"], rel=1e-3)
        assert row["retained"] == pytest.approx(old["retained"], rel=1e-4)
    (prompt,) = json.loads((copy / "evals" / "dynamics.json").read_text())["prompts"]
    assert list(prompt["models"]) == ["base", "control"]
    assert [entry["step"] for entry in prompt["steps"]] == [row["step"] for row in before]
