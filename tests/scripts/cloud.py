"""A simulated cloud: a home folder with a fake gcloud, and a fake jaxforget on its machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "tpu_vm"
FAKE = """#!{python}
import json, os, pathlib, shutil, subprocess, sys
home = pathlib.Path(os.environ["HOME"])
words = sys.argv[1:]
with open(home / "calls", "a") as file:
    file.write(json.dumps(words) + "\\n")
group, verb = words[2:4]
if verb == "describe":
    states = home / f"states-{{group}}"
    left = states.read_text().split() if states.exists() else ["READY"]
    states.write_text(" ".join(left[1:] or left))
    if left[0] == "MISSING":
        sys.exit("ERROR: NOT_FOUND: there is none")
    if left[0] == "DENIED":
        sys.exit("ERROR: PERMISSION_DENIED")
    print(left[0])
if verb == "create" and (home / "refuse").exists():
    sys.exit("ERROR: quota exceeded")
if verb == "scp" and words[5].startswith("mine:jaxforget"):
    shutil.copy(words[4], home / words[5].removeprefix("mine:"))
if verb == "ssh":
    command = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    if "jaxforget-run" in command:
        try:
            sys.exit(subprocess.run(["bash", "-c", command]).returncode)
        except KeyboardInterrupt:
            sys.exit(1)  # as the real gcloud, which exits and is not killed by the signal
"""


class Cloud:
    """A home folder with a fake gcloud on its PATH and a fake jaxforget installed."""

    def __init__(self, home: Path, jaxforget: str):
        self.home = home
        self.script = SCRIPT
        (home / "bin").mkdir()
        program = home / "jaxforget" / ".venv" / "bin" / "jaxforget"
        program.parent.mkdir(parents=True)
        for path, text in (home / "bin" / "gcloud", FAKE.format(python=sys.executable)), (program, jaxforget):
            path.write_text(text)
            path.chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("TPU_")}
        self.environment = {
            **kept,
            "HOME": str(home),
            "PATH": f"{home / 'bin'}:{kept['PATH']}",
            "TPU_ZONE": "us-west4-a",
        }

    def start(self, *words: str, cwd: Path | None = None) -> subprocess.Popen:
        how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        # Enable Ctrl-C as in a terminal: bash cannot trap a signal that it was started to ignore.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen([self.script, *words], env=self.environment, cwd=cwd, **how)
        finally:
            signal.signal(signal.SIGINT, before)

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
        process = self.start(*words, cwd=cwd)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def checkout(self) -> Path:
        """Make a git checkout that contains the script, and use the script from there."""
        root = self.home / "checkout"
        (root / "scripts").mkdir(parents=True)
        for path in SCRIPT.parent.glob("tpu_vm*"):
            shutil.copy(path, root / "scripts")
        (root / ".gitignore").write_text("runs/\n.venv/\n*.log\n")
        for name in ("kept.py", "gone.py", "c.yaml", ".venv/python", "runs/old/weights", "a.log"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(name)
        subprocess.run(["git", "init", "-q", root], check=True)
        subprocess.run(["git", "-C", root, "add", "."], check=True)
        (root / "gone.py").unlink()
        (root / "new file.yaml").write_text("not added yet")
        self.script = root / "scripts" / "tpu_vm"
        return root

    def states(self, *states: str, group: str = "queued-resources") -> None:
        (self.home / f"states-{group}").write_text(" ".join(states))

    @property
    def calls(self) -> list[list[str]]:
        path = self.home / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def verbs(self) -> list[str]:
        return [" ".join(call[2:4]) for call in self.calls]


SAYS = '#!/usr/bin/env bash\nfor word in "$@"; do echo "<$word>"; done\nexit "$(cat ~/ends 2>/dev/null || echo 0)"\n'
