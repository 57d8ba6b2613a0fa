"""The comparison with lm-evaluation-harness, on the tests' tiny base: it finds agreement, and where there is none."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from jaxforget.errors import UserError
from tests.tiny_run import HEROES, PLACES

SCRIPT = Path(__file__).parents[2] / "scripts" / "compare_harness.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_harness", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def run(script, monkeypatch, *words) -> int:
    monkeypatch.setattr("sys.argv", ["compare_harness.py", *map(str, words)])
    return script.main()


def test_agreement_and_speed(script, choices, tiny_world, monkeypatch, capsys):
    words = ("--limit", 3, "--speed", 4, "--batches", 2, "--rounds", 1, "--json")
    assert run(script, monkeypatch, choices, tiny_world / "base", *words) == 0
    result = json.loads(capsys.readouterr().out)
    (files,) = result["agreement"].values()
    assert list(files) == ["retained", "target"]
    for told in files.values():
        assert told["documents"] == 3
        assert told["acc"]["suite"] == told["acc"]["in the harness"] == told["acc_norm"]["suite"] == []
        assert 0 < told["likelihoods apart"] < 1e-4  # two programs, which round differently
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
    assert run(script, monkeypatch, choices / "target.jsonl", tiny_world / "base", *words) == 1
    said = capsys.readouterr().out
    assert "of 2: suite 1, in the harness 0" in said
    assert "of 2: suite 0, in the harness 0" in said


def test_faults_are_told_in_a_line(script, choices, tiny_world, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="nowhere: no such file or folder"):
        run(script, monkeypatch, tmp_path / "nowhere", tiny_world / "base")
    with pytest.raises(UserError, match="holds no .jsonl file"):
        run(script, monkeypatch, tmp_path, tiny_world / "base")
    with pytest.raises(UserError, match="nothing: no such folder"):
        run(script, monkeypatch, choices, tmp_path / "nothing")
    with pytest.raises(UserError, match="--limit, --batches and --rounds"):
        run(script, monkeypatch, choices, tiny_world / "base", "--rounds", 0)
