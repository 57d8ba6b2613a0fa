"""`jaxforget chat`: on a pseudo-terminal, from a pipe, from a file, as JSON."""

import io
import json
import shutil

import pytest

from jaxforget.api import load
from jaxforget.errors import printable
from jaxforget.lm.completion import completer
from tests.cli.pseudo_terminal import Terminal
from tests.cli.saying import fault, status_of

TEMPLATE = "{% for m in messages %}<{{ m.role }}> {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant> {% endif %}"  # noqa: E501


@pytest.fixture
def terminal(request):
    """`terminal(*words, columns=, **environment)` starts a command; it is killed after the test."""
    started = []

    def start(*words, **options):
        started.append(Terminal(*words, **options))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def templated(tiny_world, tmp_path):
    """The base model with a chat template."""
    folder = shutil.copytree(tiny_world / "base", tmp_path / "templated")
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    return folder


def test_two_models_answer_side_by_side_on_a_terminal(terminal, tiny_world):
    chat = terminal("chat", tiny_world / "base", tiny_world / "control", "--tokens", "12", columns=100)
    chat.expect("plain continuation.*> $")
    before = chat.type("Zorvath met\r")
    chat.expect(r"base.* {2,}.*control", before)
    chat.expect(r"\r\n> $", before)
    rows = chat.shown[before:].split("\r\n")
    assert all(len(row.replace("\x1b[1m", "").replace("\x1b[0m", "")) <= 100 for row in rows)
    chat.type("/quit\r")
    assert chat.end() == 0


def test_an_answer_streams_and_ctrl_c_ends_it_and_then_the_program(terminal, tiny_world):
    chat = terminal("chat", tiny_world / "base", "--tokens", "90", columns=60)
    chat.expect("> $")
    before = chat.type("Zorvath\r")
    chat.expect(r"Zorvath\r\n.{3,}", before)  # the first words stand there
    assert "(stopped)" not in chat.shown
    assert not chat.shown.endswith("> "), "while the answer is still being written"
    chat.interrupt()
    chat.expect(r"\(stopped\).*> $", before)
    # The conversation goes on.
    before = chat.type("/reset\r")
    chat.expect(r"\(started over\).*> $", before)
    chat.interrupt()
    assert chat.end() == 130
    assert "Traceback" not in chat.shown


def test_a_narrow_terminal_stacks_the_answers(terminal, tiny_world):
    chat = terminal("chat", tiny_world / "base", tiny_world / "control", "--tokens", "4", columns=50, NO_COLOR="1")
    chat.expect("> $")
    before = chat.type("Mary\r")
    chat.expect(rf"{tiny_world}/base:\r\n.*{tiny_world}/control:\r\n.*> $", before)
    chat.type("\x04")
    assert chat.end() == 0
    assert "\x1b[1m" not in chat.shown


def said(capsys, monkeypatch, prompts: str, *words) -> list[dict]:
    """Return the JSON lines of a chat whose prompts come from a pipe."""
    monkeypatch.setattr("sys.stdin", io.StringIO(prompts))
    assert status_of("chat", *words, "--json") == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_pipe_of_prompts_gives_json(capsys, monkeypatch, tiny_world):
    places = [tiny_world / "base", tiny_world / "control"]
    found = said(capsys, monkeypatch, "Zorvath met\n\nMary\n", *places, "--tokens", "5")
    assert [(line["prompt"], line["model"]) for line in found] == [
        (prompt, str(place)) for prompt in ("Zorvath met", "Mary") for place in places
    ]
    assert all(not line["stopped"] for line in found)


def test_the_history_is_part_of_the_next_prompt_until_reset(capsys, monkeypatch, tiny_world):
    def answers(prompts):
        return [line["answer"] for line in said(capsys, monkeypatch, prompts, tiny_world / "base", "--tokens", "8")]

    alone, after = answers("Mary\n"), answers("Zorvath met\nMary\n")
    assert after[1] != alone[0]
    assert answers("Zorvath met\n/reset\nMary\n")[1] == alone[0]


def test_the_chat_template_is_used(capsys, monkeypatch, tiny_world, templated):
    model = load(templated)
    (found,) = said(capsys, monkeypatch, "Mary\n", templated, "--tokens", "6")
    # The template says every special token itself, so that none is added.
    ids = model.tokenizer("<user> Mary\n<assistant> ", add_special_tokens=False)["input_ids"]
    (made,) = completer(model)([ids], 6)
    decode = model.tokenizer.decode
    expected = decode([*ids, *made], skip_special_tokens=True)[len(decode(ids, skip_special_tokens=True)) :]
    assert found["answer"] == printable(expected.rstrip("\ufffd"))


def test_a_run_stands_for_its_models(capsys, monkeypatch, copied, tiny_world):
    found = said(capsys, monkeypatch, "Zorvath met\n", copied, "--tokens", "3")
    assert [line["model"] for line in found] == ["base", "unlearned"]
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("  control: null", f"  control: {tiny_world}/control", 1))
    found = said(capsys, monkeypatch, "Zorvath met\n", copied, "--tokens", "3")
    assert [line["model"] for line in found] == ["base", "unlearned", "control"]


def test_prompts_come_from_a_file_and_long_ones_do_not_end_the_chat(capsys, tiny_world, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("x " * 200 + "\nMary\n/quit\nnever asked\n")
    assert status_of("chat", tiny_world / "base", "--prompts", path, "--tokens", "4") == 2
    told = capsys.readouterr()
    assert "beyond the 128 positions" in told.err
    assert "> Mary\n" in told.out
    assert "never asked" not in told.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["/nowhere"], "/nowhere: no such folder"),
        (["WORLD/base", "--prompts", "/nowhere.txt"], "/nowhere.txt: no such file; name a file with one prompt a line"),
        (["WORLD/base", "--tokens", "0"], "--tokens 0: ask for at least 1"),
        (["WORLD/base", "--top-k", "-1"], "--top-k -1: must be 0 (all tokens) or more"),
    ],
)
def test_chat_refuses(words, says, capsys, tiny_world):
    assert says in fault(capsys, "chat", *(word.replace("WORLD", str(tiny_world)) for word in words))


def test_a_run_that_has_forgotten_nothing_yet_is_named(capsys, copied):
    shutil.rmtree(copied / "unlearned")
    assert f"{copied}: this run has no unlearned model yet; run jaxforget forget {copied}" in fault(
        capsys, "chat", copied
    )


def test_a_run_without_its_control_goes_on_with_the_others(capsys, monkeypatch, copied):
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("  control: null", "  control: /nowhere", 1))
    monkeypatch.setattr("sys.stdin", io.StringIO("Zorvath met\n"))
    assert status_of("chat", copied, "--tokens", "3", "--json") == 0
    told = capsys.readouterr()
    assert [json.loads(line)["model"] for line in told.out.splitlines()] == ["base", "unlearned"]
    (line,) = told.err.splitlines()
    assert line.startswith("jaxforget: model.control: left out: /nowhere: no such folder")


def test_unlearned_weights_that_are_gone_are_made_again_and_not_downloaded(capsys, copied):
    (copied / "unlearned/model.safetensors").unlink()
    line = fault(capsys, "chat", copied)
    assert line == (
        f"{copied}/unlearned: its weights are gone; remove the folder, and jaxforget forget {copied} makes them again"
    )
