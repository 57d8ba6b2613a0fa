"""Tables, completions, the labelled passage, and what a narrower dtype keeps of an update."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxforget
from jaxforget.config import load_config
from jaxforget.corpus.loader import open_blocks
from jaxforget.pipeline import run_chain
from jaxforget.stages import completing, evaluation
from jaxforget.stages.probability import CONVENTIONS
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
        assert row["convention"] == CONVENTIONS[row["metric"]].format(length=BLOCK)
        assert row["n"] == {"familiarity": 2, "retained": 2, "perplexity": 8}[row["metric"]]


def test_a_continuation_keeps_its_first_space(base):
    prompt, rest = "Zorvath met", " Quillon near"
    new = base.tokenizer(prompt + rest)["input_ids"][len(base.tokenizer(prompt)["input_ids"]) :]
    assert completing.continuation(base.tokenizer, prompt, new) == rest
    assert completing.continuation(base.tokenizer, prompt, []) == ""


def test_shortened():
    assert completing.shortened("two\n words") == "two words"
    assert completing.shortened("x" * 41) == "x" * 37 + "..."


def test_table_has_a_row_a_model_and_a_gap_where_nothing_was_measured():
    rows = [
        {"model": "base", "metric": "familiarity", "value": 0.5},
        {"model": "base", "metric": "perplexity", "value": 12.25},
        {"model": "unlearned", "metric": "perplexity", "value": 13.0},
    ]
    assert evaluation.table(rows) == [
        "           familiarity   perplexity",
        "base            0.5000      12.2500",
        "unlearned                   13.0000",
    ]
    assert evaluation.table([]) == []


@pytest.mark.parametrize(("dtype", "lost", "kept"), [("bfloat16", 1e-3, 0.25), ("float16", 1e-4, 0.125)])
def test_what_survives_of_an_update(dtype, lost, kept):
    """Near 1 bfloat16 has steps of 1/128 and float16 of 1/1024: a smaller update is lost, a larger one is kept."""
    base = {"w": jnp.ones((64, 64)), "v": jnp.ones(3)}

    def share(size: float, dtype: str) -> float:
        return evaluation.surviving_update(base, jax.tree.map(lambda p: p + size, base), dtype)

    assert share(lost, dtype) == 0.0
    assert share(kept, dtype) == pytest.approx(1.0)
    assert share(0.0, dtype) == 0.0
    assert share(1e-6, "float32") == pytest.approx(1.0)


def test_what_survives_is_what_an_export_holds(tiny_run, tiny_world, tmp_path):
    base, model = jaxforget.load(tiny_world / "base"), jaxforget.load(tiny_run / "unlearned")
    stored = jaxforget.load(jaxforget.export(model, tmp_path / "half", dtype="bfloat16"))
    update, rest = (
        np.concatenate(
            [np.ravel(p - b) for p, b in zip(*map(jax.tree.leaves, (which.params, base.params)), strict=True)]
        )
        for which in (model, stored)
    )
    expected = (update * rest).sum() / (update * update).sum()
    assert evaluation.surviving_update(base.params, model.params, "bfloat16") == pytest.approx(expected, rel=1e-3)
    assert expected != pytest.approx(1.0, abs=1e-3), "an update that is kept whole would prove nothing"


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
