"""`jaxforget generate`."""

import re

import pytest

from tests.cli.saying import fault, status_of


def test_generate_puts_models_side_by_side(capsys, tiny_world):
    words = ["--prompt", "Zorvath met", "--prompt", "Mary\n", "--tokens", "5"]
    assert status_of("generate", tiny_world / "base", tiny_world / "control", *words) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("==")] == [
        f"== {tiny_world}/base",
        f"== {tiny_world}/control",
    ]
    assert said.count("\nZorvath met|") == 2
    assert said.count("\nMary\n|") == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/nowhere", "--prompt", "x"], "/nowhere: no such folder"),
        (["WORLD/base", "WORLD/target", "--prompt", "x"], "target/config.json: no such file"),
        (["WORLD/base", "--prompt", "x " * 200], "exceed the 128 positions of"),
        (["WORLD/base", "--prompt", "x", "--tokens", "1000"], "1000 new ones exceed the 128 positions"),
        (["WORLD/base", "--prompt", "x", "--tokens", "0"], "--tokens 0: ask for at least 1"),
        (
            ["WORLD/base", "--prompt", "x", "--temperature", "-1"],
            "--temperature -1.0: must be 0 (likeliest token) or more",
        ),
        (
            ["WORLD/base", "--prompt", "x", "--temperature", "nan"],
            "argument --temperature: 'nan' is not a finite number",
        ),
        (["WORLD/base", "--prompt", "x", "--temperature", "hot"], "argument --temperature: invalid"),
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
    assert re.fullmatch(r"== .*\n\|.*\n\n", capsys.readouterr().out, re.S)
