"""Errors as one line."""

import subprocess
import sys
from pathlib import Path

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
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=ROOT)
    line = "jaxforget: runs/x/manifest.json: No space left on device; free space there, and run the same command again"
    assert (done.returncode, done.stderr) == (2, line + "\n")
    done = subprocess.run([*words, "--debug"], capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 2
    assert "Event loop is closed" in done.stderr
