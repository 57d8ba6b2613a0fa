"""`jaxforget generate`."""

import io
import json
import re
import sys
import threading

import pytest

from jaxforget.cli import main
from jaxforget.interrupts import Ending
from tests.cli.saying import fault, status_of


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def test_generate_puts_models_side_by_side(capsys, tiny_world):
    words = ["--prompt", "Zorvath met", "--prompt", "Mary\n", "--tokens", "5"]
    assert status_of("generate", tiny_world / "base", tiny_world / "control", *words) == 0
    said = capsys.readouterr().out.splitlines()
    titles = [place for place, line in enumerate(said) if "world/base" in line and line.endswith("world/control")]
    assert len(titles) == 2
    assert said[titles[0] - 1] == "> Zorvath met"
    assert all(len(line) <= 100 for line in said)


def test_on_a_narrow_terminal_models_are_stacked(capsys, monkeypatch, tiny_world):
    monkeypatch.setenv("COLUMNS", "40")
    assert status_of("generate", tiny_world / "base", tiny_world / "control", "--prompt", "Mary", "--tokens", "3") == 0
    said = capsys.readouterr().out.splitlines()
    assert [line[-12:] for line in said if line.startswith("…")] == ["0/world/base", "orld/control"]
    assert all(len(line) <= 40 for line in said)


def test_prompts_come_from_files_and_standard_input(capsys, monkeypatch, tiny_world, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(["Zorvath met", "Mary"]))
    base = tiny_world / "base"
    words = ["--tokens", "4", "--json"]
    assert status_of("generate", base, "--prompt", "Quillon", "--prompts", path, *words) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in found] == ["Quillon", "Zorvath met", "Mary"]
    assert set(found[0]["completions"]) == {str(base)}
    monkeypatch.setattr("sys.stdin", io.StringIO("Zorvath met\n\nMary\n"))
    assert status_of("generate", base, "--prompts", "-", *words) == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == found[1:]


def test_top_k_of_one_is_greedy(capsys, tiny_world):
    told = []
    for words in ([], ["--temperature", "2", "--top-k", "1"]):
        assert status_of("generate", tiny_world / "base", "--prompt", "Mary", "--tokens", "6", "--json", *words) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]


def test_a_run_stands_for_its_models(capsys, copied):
    assert status_of("generate", copied, "--prompt", "Mary", "--tokens", "3", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["completions"]) == ["base", "unlearned"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/nowhere", "--prompt", "x"], "/nowhere: no such folder"),
        (["WORLD/base", "WORLD/target", "--prompt", "x"], "target/config.json: no such file"),
        (["WORLD/base", "--prompt", "x " * 200], "are beyond the 128 positions of"),
        (["WORLD/base", "--prompt", "x " * 200], "/world/base; shorten it"),
        (["WORLD/base", "--prompt", "x", "--tokens", "1000"], "1000 new ones are beyond the 128 positions"),
        (["WORLD/base", "--prompt", "x", "--tokens", "1000"], "; shorten it, or ask for fewer new tokens"),
        (["WORLD/base", "--prompt", "x", "--tokens", "0"], "--tokens 0: ask for at least 1"),
        (
            ["WORLD/base", "--prompt", "x", "--temperature", "-1"],
            "--temperature -1.0: must be 0 (the argmax), or from 1e-06 to 1e+06",
        ),
        (
            ["WORLD/base", "--prompt", "x", "--temperature", "nan"],
            "argument --temperature: 'nan' is not a finite number",
        ),
        (["WORLD/base", "--prompt", "x", "--temperature", "1e300"], "--temperature 1e+300: must be 0 (the argmax)"),
        (["WORLD/base", "--prompt", "x", "--temperature", "1e-60"], "--temperature 1e-60: must be 0 (the argmax)"),
        (["WORLD/base", "--prompt", "x", "--temperature", "hot"], "argument --temperature: invalid"),
        (["WORLD/base"], "no prompt is given; write --prompt TEXT, or --prompts FILE"),
        (["WORLD/base", "--prompts", "WORLD/base"], "Is a directory; name a file with one prompt a line"),
        (["WORLD/base", "--prompt", "x", "--top-k", "-2"], "--top-k -2: must be 0 (all tokens) or more"),
        (["WORLD/base", "--prompt", "x", "--top-p", "0"], "--top-p 0.0: must be above 0 and at most 1"),
    ],
)
def test_generate_refuses(words, says, capsys, tiny_world):
    assert says in fault(capsys, "generate", *(word.replace("WORLD", str(tiny_world)) for word in words))


@pytest.mark.parametrize("words", [["--tokens", "0"], ["--temperature", "-1"], ["--top-p", "2"]])
def test_what_cannot_be_sampled_is_told_before_a_model_is_looked_at(words, capsys):
    assert fault(capsys, "generate", "/nowhere", "--prompt", "x", *words).startswith(f"{words[0]} {words[1]}")


def test_an_empty_prompt_starts_at_the_begin_token(capsys, tiny_world):
    assert status_of("generate", tiny_world / "base", "--prompt", "", "--tokens", "3") == 0
    assert re.fullmatch(r"> \n.*world/base\n.*\n\n", capsys.readouterr().out, re.S)


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_terminal_without_unicode_gets_question_marks_and_json_escapes(monkeypatch, tiny_world, words):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    command = ["jaxforget", "generate", str(tiny_world / "base"), "--prompt", "h\u4e2d\xe9", "--tokens", "2"]
    monkeypatch.setattr(sys, "argv", [*command, *words])
    assert main(ending=Ending()) == 0
    out.flush()
    said = out.buffer.getvalue().decode("ascii")
    assert json.loads(said)["prompt"] == "h\u4e2d\xe9" if words else said.startswith("> h??")


@pytest.mark.parametrize(
    ("content", "says"),
    [("[" * 100_000, "nested too deeply"), ("[" + "9" * 5000 + "]", "a number of more than"), ("[", "line 1 column 2")],
)
def test_a_file_of_prompts_that_is_no_json(content, says, capsys, tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text(content)
    line = fault(capsys, "generate", "/nowhere", "--prompts", path)
    assert line.startswith(f"{path}: ")
    assert says in line
