"""The script against a gcloud that notes every call, answers states as told, and runs the hosts' commands here."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "tpu_vm"
FAKE = """#!{python}
import json, os, pathlib, subprocess, sys
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
if verb == "ssh":
    command = next(word for word in words if word.startswith("--command=")).removeprefix("--command=")
    if "jaxforget-run" in command:
        sys.exit(subprocess.run(["bash", "-c", command]).returncode)
"""


class Cloud:
    """A home with a fake gcloud on its PATH and a fake jaxforget installed."""

    def __init__(self, home: Path, jaxforget: str):
        self.home = home
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

    def start(self, *words: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([SCRIPT, *words], env=self.environment, **pipes)

    def run(self, *words: str) -> subprocess.CompletedProcess:
        process = self.start(*words)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

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


@pytest.fixture
def cloud(tmp_path) -> Cloud:
    return Cloud(tmp_path, SAYS)


def test_create_asks_and_waits(cloud):
    cloud.states("WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
    done = cloud.run("create", "mine", "--spot", "--type", "v5e-4", "--project", "p", "--disk", "d", "--every", "0")
    assert done.returncode == 0, done.stderr
    assert cloud.calls[0] == [
        *("compute", "tpus", "queued-resources", "create", "mine", "--node-id=mine"),
        *("--accelerator-type=v5litepod-4", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"),
        "--data-disk=source=projects/p/zones/us-west4-a/disks/d,mode=read-write",
        *("--zone=us-west4-a", "--project=p"),
    ]
    assert cloud.verbs[1:] == ["queued-resources describe"] * 3 + ["tpu-vm describe"]
    assert done.stderr.splitlines() == ["mine: WAITING_FOR_RESOURCES", "mine: PROVISIONING"]


def test_a_vm_at_once_has_its_own_verbs(cloud):
    for command in ("create", "status", "delete"):
        assert cloud.run(command, "mine", "--direct", "--type", "v4-8").returncode == 0
    assert cloud.verbs == ["tpu-vm create", "tpu-vm describe", "tpu-vm describe", "tpu-vm delete"]
    assert {"--accelerator-type=v4-8", "--version=tpu-ubuntu2204-base"} < set(cloud.calls[0])
    assert "--spot" not in cloud.calls[0]
    cloud.run("delete", "mine")
    assert cloud.calls[-1][2:7] == ["queued-resources", "delete", "mine", "--force", "--quiet"]


def test_words_reach_the_command_as_they_were_given(cloud):
    words = ["run", "c.yaml", "a=b c", "it's", 'say "hi"', "$HOME", "*", "", "x;exit 9"]
    done = cloud.run("run", "mine", "--", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"<{word}>" for word in words]
    workers = [word for call in cloud.calls for word in call if word.startswith("--worker")]
    assert workers == ["--worker=all", "--worker=0"]


def test_the_commands_own_status_comes_back(cloud):
    (cloud.home / "ends").write_text("2")
    assert cloud.run("run", "mine", "--", "forget").returncode == 2
    again = cloud.run("logs", "mine")
    assert (again.returncode, again.stdout) == (2, "<forget>\n")


def test_one_command_at_a_time_and_stop_ends_it(tmp_path):
    waits = "#!/usr/bin/env bash\ntrap 'echo saved; exit 143' TERM\necho ready\nwhile :; do sleep 0.05; done\n"
    cloud = Cloud(tmp_path, waits)
    first = cloud.start("run", "mine", "--", "forget")
    try:
        assert first.stdout.readline() == "ready\n"
        second = cloud.run("run", "mine", "--", "forget")
        assert second.returncode == 3
        assert "a command is under way here" in second.stderr
        assert cloud.run("stop", "mine").returncode == 0
        assert first.communicate(timeout=60)[0].endswith("saved\n")
        assert first.returncode == 143
    finally:
        first.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int((tmp_path / "jaxforget-run" / "pid").read_text()), signal.SIGKILL)


def test_setup_brings_the_checkout_to_every_host(cloud):
    done = cloud.run("setup", "mine", "--nfs", "10.0.0.2:/share me")
    assert done.returncode == 0, done.stderr
    copy, install = cloud.calls
    assert copy[2:4] == ["tpu-vm", "scp"]
    assert copy[5:7] == ["mine:jaxforget.tar.gz", "--worker=all"]
    assert not Path(copy[4]).exists()  # the archive is gone again
    script = next(word for word in install if word.startswith("--command="))
    assert "mount -t nfs 10.0.0.2:/share\\ me /mnt/run" in script
    assert "--worker=all" in install
    subprocess.run(["bash", "-n", "-c", script.removeprefix("--command=")], check=True)


def test_keep_goes_on_after_a_preemption(cloud):
    # Asked for; taken away while it runs, which the queued resource does not show; asked for again.
    cloud.states("MISSING", "ACTIVE", "ACTIVE", "SUSPENDED", "MISSING", "ACTIVE")
    cloud.states("READY", "PREEMPTED", "READY", group="tpu-vm")
    (cloud.home / "jaxforget" / ".venv" / "bin" / "jaxforget").write_text(
        "#!/usr/bin/env bash\nif [ -e ~/once ]; then echo resumed; exit 0; fi\ntouch ~/once\necho begun\nexit 143\n"
    )
    done = cloud.run("keep", "mine", "--every", "0", "--", "forget", "runs/x")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["begun", "resumed"]
    changes = [verb for verb in cloud.verbs if verb.split()[1] in ("create", "delete", "scp")]
    assert changes == ["queued-resources create", "tpu-vm scp", "queued-resources delete"] + changes[:2]


def test_keep_gives_up_on_what_would_fail_again(cloud):
    (cloud.home / "ends").write_text("2")
    done = cloud.run("keep", "mine", "--every", "0", "--", "forget")
    assert done.returncode == 2
    assert "refuses its own words" in done.stderr
    (cloud.home / "ends").write_text("1")
    done = cloud.run("keep", "mine", "--every", "0", "--", "forget")
    assert done.returncode == 1
    assert "three times on a sound machine" in done.stderr
    assert cloud.verbs.count("tpu-vm scp") == 1 + 3
    assert not any(verb.endswith(("create", "delete")) for verb in cloud.verbs)


def test_a_refusal_by_the_cloud_ends_it(cloud):
    (cloud.home / "refuse").touch()
    for command in (["create", "mine"], ["keep", "mine", "--", "forget"]):
        cloud.states("MISSING")
        done = cloud.run(*command)
        assert done.returncode == 1
        assert done.stderr == "ERROR: quota exceeded\n"
    cloud.states("DENIED")
    done = cloud.run("keep", "mine", "--", "forget")
    assert (done.returncode, done.stderr) == (1, "ERROR: PERMISSION_DENIED\n")
    (cloud.home / "refuse").unlink()
    cloud.states("FAILED")
    done = cloud.run("create", "mine")
    assert done.returncode == 1
    assert "mine is FAILED; delete it and ask again" in done.stderr


def test_dry_run_prints_and_calls_nothing(cloud):
    done = cloud.run("keep", "mine", "--dry-run", "--", "run", "a=b c")
    assert done.returncode == 0, done.stderr
    assert cloud.calls == []
    assert [line.split()[3] for line in done.stdout.splitlines() if line.startswith("gcloud")] == [
        *("queued-resources", "queued-resources"),
        *("tpu-vm",) * 4,
    ]
    # What it prints can be typed: the words come out of a shell as they went in.
    start = done.stdout.splitlines()[-2]
    script = subprocess.run(["bash", "-c", f"printf '%s\\n' {start}"], capture_output=True, text=True).stdout
    assert ".venv/bin/jaxforget run a=b\\ c" in script


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create"], "needs a NAME"),
        (["create", "Mine"], "needs a NAME"),
        (["creat", "mine"], "unknown command creat"),
        (["create", "mine", "--sopt"], "unknown option --sopt"),
        (["create", "mine", "--type"], "--type needs a value"),
        (["delete", "mine", "--project", "--dry-run"], "--project needs a value"),
        (["create", "mine", "--type", "tpu7x-8"], "name it with --runtime"),
        (["create", "mine", "--disk", "d"], "--disk needs --project"),
        (["setup", "mine", "--disk", "d", "--nfs", "h:/s"], "give one of the two"),
        (["run", "mine"], "name what to run behind --"),
        (["run", "mine", "c.yaml"], "c.yaml: not expected"),
        (["fetch", "mine", "there"], "fetch needs NAME REMOTE LOCAL"),
        (["create", "mine", "--every", "soon"], "--every soon: give seconds"),
    ],
)
def test_a_users_fault_is_one_line(cloud, words, said):
    done = cloud.run(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert cloud.calls == []


def test_without_gcloud_or_zone(cloud):
    tools = cloud.home / "tools"
    tools.mkdir()
    for name in ("bash", "dirname", "env", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    cloud.environment["PATH"] = str(tools)
    assert "gcloud is not installed" in cloud.run("status", "mine").stderr
    del cloud.environment["TPU_ZONE"]
    assert "--zone (or TPU_ZONE) is not set" in cloud.run("status", "mine").stderr


def test_help_names_every_command_and_option(cloud):
    text = cloud.run("--help").stdout
    for word in ("create", "setup", "run", "logs", "stop", "keep", "fetch", "status", "delete", "--spot", "--dry-run"):
        assert word in text
