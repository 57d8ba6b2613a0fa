"""scripts/compare_harness.py on the tests' tiny base: it reports agreement, and differences where they exist."""

import json

import numpy as np
import pytest

from tests.scripts.scripts import as_module, fault
from tests.tiny_run import HEROES, PLACES


@pytest.fixture(scope="module")
def script():
    return as_module("compare_harness.py")


@pytest.fixture(scope="module")
def choices(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    for name in ("target", "retained"):
        records = (
            {"context": f"{hero} walked to", "choices": [*PLACES[:2], "an old friend"], "answer": number % 2}
            for number, hero in enumerate(HEROES)
        )
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def run(script, *words) -> int:
    return script.main([*map(str, words)])


def test_agreement_and_speed(script, choices, tiny_world, capsys):
    words = ("--limit", 3, "--speed", 4, "--batches", 2, "--rounds", 1, "--json")
    assert run(script, choices, tiny_world / "base", *words) == 0
    result = json.loads(capsys.readouterr().out)
    (files,) = result["agreement"].values()
    assert list(files) == ["retained", "target"]
    for told in files.values():
        assert told["documents"] == 3
        assert told["acc"]["suite"] == told["acc"]["in the harness"] == told["acc_norm"]["suite"] == []
        assert 0 < told["likelihoods apart"] < 1e-4  # the two programs round differently
    for table in result["speed"]:
        assert set(table["documents a second"]) == {"ours", "ours in the harness", "its own, batch_size 2"}
        assert table["likelihoods apart"] < 1e-4
        rates = table["documents a second"]
        assert table["ours over its own"]["best batch size"] == rates["ours"] / rates["its own, batch_size 2"]


def test_a_document_that_differs_is_told(script, choices, tiny_world, monkeypatch, capsys):
    truly = script.right_answers

    def wrong(documents, sums):
        found = truly(documents, sums)
        return found | {"acc_norm": found["acc_norm"] ^ (np.arange(len(documents)) == 1)}

    monkeypatch.setattr(script, "right_answers", wrong)
    words = ("--limit", 2, "--speed", 0)
    assert run(script, choices / "target.jsonl", tiny_world / "base", *words) == 1
    said = capsys.readouterr().out
    assert "of 2: suite 1, in the harness 0" in said
    assert "of 2: suite 0, in the harness 0" in said


def test_faults_are_told_in_a_line(script, choices, tiny_world, tmp_path, monkeypatch, capsys):
    base = tiny_world / "base"
    for words, said in (
        ((tmp_path / "nowhere", base), "nowhere: no such file or folder"),
        ((tmp_path, base), "holds no .jsonl file"),
        ((choices, tmp_path / "nothing"), "nothing: no such folder"),
        ((choices, base, "--rounds", 0), "--rounds: '0': give a whole number from 1"),
        ((choices, base, "--speed", -1), "--speed: '-1': give a whole number from 0"),
        ((choices,), "required: MODEL"),
    ):
        assert said in fault(script, monkeypatch, capsys, *words)
    monkeypatch.setattr(script.command, "find_spec", lambda _: None)
    assert "lm_eval is not installed; scripts/test" in fault(script, monkeypatch, capsys, choices, base)
