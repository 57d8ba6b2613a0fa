"""A short fuzz of every parser, and the inputs that once raised something other than `UserError`."""

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "scripts" / "fuzz"
LOADER = importlib.machinery.SourceFileLoader("fuzz", str(PATH))
fuzz = importlib.util.module_from_spec(importlib.util.spec_from_loader("fuzz", LOADER))
LOADER.exec_module(fuzz)
FOUND = [
    ("config.json", fuzz.in_json(fuzz.LLAMA | {"model_type": []})),
    ("config.json", fuzz.in_json(fuzz.LLAMA | {"model_type": {"a": 1}})),
    ("model.safetensors.index.json", fuzz.in_json({"weight_map": {"w": "a" * 5000}})),
    ("config.yaml", b"evals: {compare: [a]}"),
    ("config.yaml", b'out: "a\\0b"'),
    ("config.yaml", b"seed: " + b"9" * 5000),
    ("anchors.json", b'{"a": [' + b"9" * 5000 + b"]}"),
    ("text.jsonl", b'{"text": ' + b"9" * 5000 + b"}"),
    ("questions.jsonl", b'{"question": ' + b"9" * 5000 + b"}"),
    ("metrics.jsonl", b'{"stage": ' + b"9" * 5000 + b"}\n"),
    ("request", b"GET http://[/ HTTP/1.1\r\n\r\n"),
    ("request", b"POST /save HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n"),
]


@pytest.mark.parametrize("name", fuzz.PARSERS)
def test_random_content_is_refused_or_read(name):
    assert fuzz.fuzz(name, 50) is None


@pytest.mark.parametrize(("name", "content"), FOUND)
def test_a_found_case_is_refused(name, content, tmp_path):
    fuzz.try_content(name, content, tmp_path)


def test_a_fault_is_told_with_its_input(monkeypatch):
    def broken(path):
        raise TypeError("unhashable")

    monkeypatch.setitem(fuzz.PARSERS, "post", (broken, [], fuzz.in_json))
    assert "TypeError: unhashable" in fuzz.fuzz("post", 5)
