"""Code that the scripts share: faults in one line, ranges of numbers, free disk space."""

import argparse
import errno
import os
import signal
import subprocess
import sys

import pytest

from jaxforget.errors import UserError
from tests.scripts.scripts import SCRIPTS, as_module


@pytest.fixture(scope="module")
def command():
    return as_module("bench/command.py")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("file: is bad;\nfix it"), "file: is bad; fix it"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), "f: No space left on device; free space there"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "No space left on device; free space"),
        (MemoryError(), "out of memory; ask for fewer blocks"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating"), "out of memory; ask for fewer blocks"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory; ask for fewer blocks"),
        (ModuleNotFoundError("No module named 'accelerate'"), "No module named 'accelerate'; scripts/test installs"),
    ],
)
def test_what_the_user_can_mend_is_a_line(command, error, line):
    assert line in command.fault_line(error)


def test_what_is_ours_keeps_its_traceback(command, monkeypatch):
    assert command.fault_line(ValueError("a shape")) is None
    with pytest.raises(ValueError, match="a shape"):
        command.run("x.py", lambda _: (_ for _ in ()).throw(ValueError("a shape")).__next__())


def test_how_a_script_ends(command, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x.py", "word"])

    def interrupted(_):
        raise KeyboardInterrupt

    for main, status in ((lambda _: None, None), (lambda words: len(words), 1), (interrupted, 130)):
        with pytest.raises(SystemExit) as end:
            command.run("folder/x.py", main)
        assert end.value.code == status
    assert capsys.readouterr().err == "x: interrupted\n"


@pytest.mark.parametrize(
    ("kind", "least", "below", "text", "value"),
    [
        (int, 1, 9, "8", 8),
        (int, 1, 9, "9", None),
        (int, 1, 9, "0", None),
        (int, 0, 9, "1.5", None),
        (int, 0, 9, "", None),
        (int, 0, 9, "9" * 5000, None),
        (float, 0, 1, "0", 0.0),
        (float, 0, 1, "1", None),
        (float, 0, 1, "nan", None),
        (float, 0, 1, "-inf", None),
    ],
)
def test_numbers_in_a_range(command, kind, least, below, text, value):
    read = command.number(kind, least, below)
    if value is not None:
        assert read(text) == value
        return
    with pytest.raises(argparse.ArgumentTypeError, match="give a (whole )?number from"):
        read(text)


def test_room(command, tmp_path, monkeypatch):
    command.check_room(tmp_path / "not" / "there", 1000, "go")
    with pytest.raises(UserError, match=rf"^{tmp_path}: 1,000,000,000.0 GB are to be written, .* free; go$"):
        command.check_room(tmp_path / "not" / "there", 10**18, "go")
    monkeypatch.setattr(command.os, "access", lambda *_: False)  # whoever runs the tests may be allowed everything
    with pytest.raises(UserError, match="cannot be written; allow it, or go"):
        command.check_room(tmp_path, 1000, "go")


def test_a_process_that_gave_no_answer(command, monkeypatch):
    monkeypatch.setattr("sys.argv", ["folder/x.py"])
    with pytest.raises(UserError, match="side torch was killed, most often because memory ran out; ask for fewer"):
        command.unanswered("side torch", -signal.SIGKILL)
    with pytest.raises(SystemExit) as end:
        command.unanswered("side torch", 1)
    assert end.value.code == "x: side torch ended with status 1; what it said stands above"


@pytest.mark.parametrize(
    "script", ["make_random_llama.py", "bench_step.py", "bench_load.py", "compare_harness.py", "plan_table"]
)
def test_a_python_without_the_packages_is_told_of_another(script):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    # Without what its site adds, this Python has its own library alone.
    done = subprocess.run([sys.executable, "-S", SCRIPTS / script], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "run it by .venv/bin/python, which scripts/test makes" in done.stderr
