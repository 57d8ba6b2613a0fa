"""Errors as one line."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxforget.cli.faults import tell, users_fault
from jaxforget.errors import UserError
from tests.children import without_torch

ROOT = Path(__file__).parents[2]
# A command whose threads and destructors fail after the command itself has failed.
NOISE = """
import sys, threading
import jaxforget.pipeline
from jaxforget.cli import chain, main
chain.check_places = lambda *_: None
class Failing:
    def __del__(self):
        raise RuntimeError("Event loop is closed")
def work():
    raise RuntimeError("Event loop is closed")
def full(*_, **__):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    Failing()
    raise OSError(28, "No space left on device", "runs/x/manifest.json")
jaxforget.pipeline.run_chain = full
sys.exit(main())
"""


def test_threads_and_destructors_add_nothing_to_the_line_of_a_full_disk():
    words = [sys.executable, "-c", NOISE, "run", ROOT / "configs" / "toy.yaml"]
    how = {"capture_output": True, "text": True, "timeout": 300, "cwd": ROOT, "env": without_torch(os.environ)}
    done = subprocess.run(words, **how)
    line = "jaxforget: runs/x/manifest.json: No space left on device; free space there, and run the same command again"
    assert (done.returncode, done.stderr) == (2, line + "\n")
    done = subprocess.run([*words, "--debug"], **how)
    assert done.returncode == 2
    assert "Event loop is closed" in done.stderr


def test_control_characters_of_a_name_do_not_reach_the_terminal(capsys):
    tell(users_fault(UserError("a\x1b]0;title\x07\x1b[2J.txt: no such\nfile"), ""))
    assert capsys.readouterr().err == "jaxforget: a\ufffd]0;title\ufffd\ufffd[2J.txt: no such file\n"


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.EROFS, "Read-only file system; name a place that can be written"),
        (errno.EDQUOT, "free space there, and run the same command again"),
        (errno.ESTALE, "fix that, and run the same command again"),
        (errno.EIO, "fix that, and run the same command again"),
        (errno.ENOTCONN, "fix that, and run the same command again"),
    ],
    ids=errno.errorcode.get,
)
def test_disks_that_fail_are_one_line(number, says):
    line = users_fault(OSError(number, os.strerror(number), "runs/x/export"), "runs/x")
    assert line.startswith("runs/x/export: ")
    assert line.endswith(says)


@pytest.mark.parametrize(
    "text",
    [
        "FAILED_PRECONDITION: Gloo all-reduce failed: Connection closed by peer [127.0.0.1]:4122",
        "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats): coordination service",
    ],
)
def test_a_lost_process_of_a_run_is_one_line(text):
    assert users_fault(RuntimeError(text), "").startswith("another process of this run ended or cannot be reached; run")
