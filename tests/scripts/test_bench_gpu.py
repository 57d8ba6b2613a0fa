"""scripts/bench_gpu: every part gives its line, also if other parts fail."""

import json
import sys

import pytest

from tests.scripts.scripts import as_module


@pytest.fixture
def script(monkeypatch, tmp_path):
    """The script as a module; its part `tests` only prints a line."""
    module = as_module("bench_gpu")
    monkeypatch.setattr(
        module, "tests", lambda tiny: module.Part("tests", [sys.executable, "-c", "print('1 passed')"], 60)
    )
    return module


def run(script, monkeypatch, capfd, parts, *words) -> tuple[int, list[dict]]:
    monkeypatch.setattr(script, "parts", lambda folder, tiny: parts)
    monkeypatch.setattr(sys, "argv", ["bench_gpu", *words])
    status = script.main()
    return status, [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_a_part_that_fails_or_hangs_or_says_nothing_loses_no_other(script, monkeypatch, capfd, tmp_path):
    def part(name, code, limit=60.0):
        return script.Part(name, [sys.executable, "-c", code], limit)

    parts = [
        part("fails", "import sys; print('{\"half\"'); sys.exit('no memory')"),
        part(
            "hangs", "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])", 1
        ),
        part("silent", "pass"),
        part("good", "import os; print('{\"rate\": ' + os.environ['NUMBER'] + '}')"),
    ]
    parts[-1].environment["NUMBER"] = "3"
    status, lines = run(script, monkeypatch, capfd, parts, "--out", str(tmp_path / "lines"))
    assert status == 1
    assert [(line["part"], line["ok"]) for line in lines] == [
        ("fails", False), ("hangs", False), ("silent", False), ("good", True), ("tests", True)
    ]  # fmt: skip
    assert "no memory" in lines[0]["error"]
    assert "stopped after 1 s" in lines[1]["error"]
    assert "no JSON" in lines[2]["error"]
    assert lines[3]["result"] == {"rate": 3}
    assert lines[4]["result"] == ["1 passed"]
    assert [json.loads(line) for line in (tmp_path / "lines").read_text().splitlines()] == lines


def test_parts_that_no_time_is_left_for_are_named(script, monkeypatch, capfd):
    status, lines = run(script, monkeypatch, capfd, [script.Part("late", ["false"], 60)], "--seconds", "1")
    assert status == 1
    assert lines[0] == {"part": "late", "ok": False, "seconds": 0.0, "error": "not started: no time left"}


def test_only_names_parts(script, monkeypatch, capfd):
    status, lines = run(script, monkeypatch, capfd, [script.Part("one", ["false"], 60)], "--only", "tests")
    assert (status, [line["part"] for line in lines]) == (0, ["tests"])


@pytest.mark.parametrize("memory", [81_559, 143_771], ids=["H100", "H200"])
def test_half_of_the_layers_where_the_whole_model_does_not_fit(monkeypatch, tmp_path, memory):
    script = as_module("bench_gpu")
    monkeypatch.setattr(script, "gpu_memory", lambda: memory)
    parts = {part.name: part for part in script.parts(tmp_path, tiny=False)}
    assert ("--layers" in parts["exact-dots"].words) == (memory < script.LARGE)
    assert len(parts) == len(script.parts(tmp_path, tiny=False))
    assert "command_buffer" in parts["full7b-mlp-8"].environment["XLA_FLAGS"]
