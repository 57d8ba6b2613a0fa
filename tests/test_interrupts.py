"""Ctrl-C and SIGTERM end a process that runs one command, whatever it is doing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxforget.interrupts import NAMES

ROOT = Path(__file__).parents[1]
START = """
import os, signal, sys, time
from jaxforget.interrupts import Ending
signal.signal(signal.SIGINT, signal.default_int_handler)
ending = Ending()
ending.install()
"""
# The handler of a training loop, and a signal that comes while the loop is busy.
LOOP = """
class Loop:
    saving = {saving}
    heard = 0
    def __call__(self, number, _):
        self.heard += 1
loop = Loop()
signal.signal(signal.SIGINT, loop)
signal.signal(signal.SIGTERM, loop)
"""
SWALLOW = """
for _ in range(200):
    try:
        time.sleep(0.05)
        print("working", flush=True)
    except BaseException:
        pass
"""
# SIGINT at the moment at which a module is imported.
AT_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
def hook(event, words):
    if event == "import" and words[0] == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
sys.argv[0] = "jaxforget"
from jaxforget.__main__ import main
sys.exit(main())
"""


def python(code: str, *words: object, **more) -> subprocess.CompletedProcess:
    start = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(start, capture_output=True, text=True, timeout=300, cwd=ROOT, **more)


@pytest.mark.parametrize("number", NAMES)
def test_a_signal_ends_the_process_though_exceptions_are_swallowed(number):
    done = python(START + f"os.kill(os.getpid(), {int(number)})" + SWALLOW)
    assert (done.returncode, done.stderr) == (128 + number, f"jaxforget: {NAMES[number]}\n")


@pytest.mark.parametrize("number", NAMES)
def test_a_signal_ends_a_process_that_is_deep_in_a_library(number):
    """C code does not run handlers of Python, as during a long compilation."""
    code = """
import ctypes, threading
threading.Timer(0.3, os.kill, (os.getpid(), NUMBER)).start()
ending.resumable = "; go on"
ending.last = lambda: print("rows", flush=True)
ctypes.CDLL(None).sleep(60)
ctypes.CDLL(None).sleep(60)
""".replace("NUMBER", str(int(number)))
    done = python(START + code)
    told = f"jaxforget: {NAMES[number]}; go on\n"
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "rows\n", told)


def test_it_ends_though_nobody_reads_its_output():
    reader, writer = os.pipe()
    os.close(reader)
    code = START + "ending.last = lambda: print('rows', flush=True)\nos.kill(os.getpid(), signal.SIGINT)" + SWALLOW
    done = subprocess.run([sys.executable, "-c", code], stdout=writer, stderr=writer, timeout=60, cwd=ROOT)
    os.close(writer)
    assert done.returncode == 130


def test_a_loop_that_saves_is_given_time_and_a_second_ctrl_c_ends_it():
    once = 'os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.3)\nprint("heard", loop.heard, flush=True)\n'
    done = python(START + LOOP.format(saving=False) + once)
    assert (done.returncode, done.stdout, done.stderr) == (0, "heard 1\n", "")
    done = python(START + LOOP.format(saving=False) + once + "os.kill(os.getpid(), signal.SIGINT)\n" + SWALLOW)
    assert (done.returncode, done.stderr) == (130, "jaxforget: interrupted\n")


@pytest.mark.parametrize(("saving", "status"), [(False, 143), (True, 0)])
def test_a_loop_that_does_not_come_to_its_save_ends_in_time_after_sigterm(saving, status):
    code = "import jaxforget.interrupts\njaxforget.interrupts.TERM_SECONDS = 0.2\n" + START + LOOP.format(saving=saving)
    done = python(code + "for _ in range(3): os.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(2)\n")
    assert done.returncode == status


def test_a_wait_for_input_ends_though_it_began_just_after_the_signal():
    """The signal reaches another thread here, which leaves the main thread waiting, as one that came too early does."""
    code = """
import ctypes, threading
class Reader:
    reads_input = True
    def __call__(self, number, _):
        self.reads_input = False
        raise KeyboardInterrupt
signal.signal(signal.SIGINT, Reader())
other = threading.Thread(target=time.sleep, args=(60,), daemon=True)
other.start()
threading.Timer(0.3, signal.pthread_kill, (other.ident, signal.SIGINT)).start()
try:
    ctypes.CDLL(None).pause()  # until a signal reaches this thread
except KeyboardInterrupt:
    print("ended", flush=True)
os._exit(0)
"""
    done = python(START + code)
    assert (done.stdout, done.stderr) == ("ended\n", "")


def test_an_ignored_signal_stays_ignored():
    code = START.replace("default_int_handler", "SIG_IGN") + "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(0.3)"
    assert python(code).returncode == 0


@pytest.mark.parametrize("module", ["argparse", "pydantic", "numpy", "jax", "flax", "orbax.checkpoint", "tokenizers"])
def test_ctrl_c_in_the_midst_of_an_import_is_one_line(module, tiny_world, tmp_path):
    from tests.tiny_run import settings, write_config

    config = write_config(tmp_path / "c.yaml", settings(tiny_world, tmp_path / "run"))
    done = python(AT_IMPORT.format(module=module), "run", config)
    assert done.returncode == 130, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch("jaxforget: interrupted(; run the same command to go on from the last checkpoint)?", last)
    assert "Traceback" not in done.stderr
