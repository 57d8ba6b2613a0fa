"""`scripts/audit` with a stand-in for Python and pip-audit: its exit status and its one line."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin" && cp {here}/quiet "$3/bin/python" && cp {here}/pip-audit "$3/bin/pip-audit"
fi
"""


@pytest.mark.parametrize(
    ("found", "told", "status", "expected", "line"),
    [
        ("", "No known vulnerabilities found", 0, 0, ""),
        ("urllib3 1.0 PYSEC-1\n", "Found 1 known vulnerability", 1, 1, ""),
        ("", "WARNING:a\nERROR:pip_audit._cli:absl-py: not found", 1, 2, "not audited: absl-py: not found; run"),
    ],
    ids=["none", "one", "no answer"],
)
def test_its_status_tells_what_was_found(tmp_path, found, told, status, expected, line):
    words = tmp_path / "words"
    programs = {
        "quiet": "#!/bin/sh\n",
        "python": PYTHON.format(here=tmp_path),
        "pip-audit": f'#!/bin/sh\necho "$@" > {words}\nprintf %s "{found}"\nprintf "{told}\\n" >&2\nexit {status}\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "JAXFORGET_PYTHON": str(tmp_path / "python"), "TMPDIR": str(tmp_path)}
    script = [ROOT / "scripts" / "audit", "--fix-nothing"]
    done = subprocess.run(script, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (expected, found)
    assert done.stderr.startswith(f"jaxforget: {line}" if line else "")
    assert done.stderr.count("\n") == bool(line)
    asked = words.read_text()
    assert "--strict" in asked
    assert "-r requirements.lock -r requirements-test.lock --fix-nothing" in asked
