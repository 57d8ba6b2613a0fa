"""The script against a gcloud that notes every call, answers states as told, and runs the hosts' commands here."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from jaxforget.cli.main import make_parser
from jaxforget.tpu.topology import GENERATIONS

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
            sys.exit(1)  # as the real one, which says so and dies of no signal
"""


class Cloud:
    """A home with a fake gcloud on its PATH and a fake jaxforget installed."""

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
        # Ctrl-C as from a terminal, whatever started the tests: bash cannot trap what it was started to ignore.
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
        """A checkout of its own, with git, that the script is in."""
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
    words = ["run", "configs/toy.yaml", "a=b c", "it's", 'say "hi"', "$HOME", "*", "", "x;exit 9"]
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


def test_ctrl_c_ends_keep_and_not_the_command(tmp_path):
    cloud = Cloud(tmp_path, "#!/usr/bin/env bash\necho ready\nwhile [ ! -e ~/go ]; do sleep 0.05; done\necho done\n")
    first = cloud.start("keep", "mine", "--every", "0", "--", "forget")
    try:
        assert first.stdout.readline() == "ready\n"
        os.killpg(first.pid, signal.SIGINT)
        first.communicate(timeout=60)
        assert first.returncode == 130
        (tmp_path / "go").touch()
        # The same command again takes it up; or shows how it ended.
        assert cloud.run("logs", "mine").stdout == "ready\ndone\n"
        assert cloud.verbs.count("tpu-vm scp") == 1
    finally:
        (tmp_path / "go").touch()
        first.kill()


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


def packed(cloud: Cloud) -> set[str]:
    with tarfile.open(cloud.home / "jaxforget.tar.gz") as archive:
        return set(archive.getnames())


def test_what_git_knows_travels_and_nothing_else(cloud):
    root = cloud.checkout()
    assert cloud.run("setup", "mine").returncode == 0
    scripts = {"scripts/tpu_vm", "scripts/tpu_vm_checks.sh"}
    assert packed(cloud) == scripts | {".gitignore", "kept.py", "c.yaml", "new file.yaml"}
    # Unpacked from an archive, a checkout has no git to ask.
    shutil.rmtree(root / ".git")
    assert cloud.run("setup", "mine").returncode == 0
    travelled = {name.removeprefix("./") for name in packed(cloud)}
    assert travelled == scripts | {"kept.py", "c.yaml", "new file.yaml", "a.log"}


def test_a_large_file_in_the_checkout_does_not_travel(cloud):
    root = cloud.checkout()
    for name in ("model.safetensors", "more.safetensors"):
        with open(root / name, "wb") as file:
            file.truncate(100_000_001)
    for command in (["setup", "mine"], ["keep", "mine", "--", "forget"]):
        done = cloud.run(*command)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "model.safetensors: more than 100 MB" in done.stderr
    assert cloud.calls == []
    with open(root / ".gitignore", "a") as file:
        file.write("*.safetensors\n")
    assert cloud.run("setup", "mine").returncode == 0


def test_send_brings_files_and_folders_up(cloud):
    there = cloud.home / "here"
    (there / "my text" / "part").mkdir(parents=True)
    for name in ("my text/one.txt", "my text/.hidden", "my text/part/two.txt", "a:b.json"):
        (there / name).write_text(name)
    done = cloud.run("send", "mine", "my text/", "/mnt/run/text", "--disk", "d", cwd=there)
    assert done.returncode == 0, done.stderr
    mount, copy = cloud.calls
    script = next(word for word in mount if word.startswith("--command=")).removeprefix("--command=")
    subprocess.run(["bash", "-n", "-c", script], check=True)
    assert 'sudo mount "$disk" /mnt/run' in script
    assert script.splitlines()[-1] == "mkdir -p '/mnt/run/text'"
    # What is in the folder, so that sending it again does not put it into itself.
    sent = ["./my text/.hidden", "./my text/one.txt", "./my text/part"]
    assert copy[2:10] == ["tpu-vm", "scp", "--recurse", *sent, "mine:/mnt/run/text", "--worker=all"]
    assert "--worker=all" in mount
    # gcloud would take a:b.json for a place on a host called a.
    assert cloud.run("send", "mine", "a:b.json", "texts/a.json", cwd=there).returncode == 0
    assert any(word.endswith("\nmkdir -p 'texts/'") for word in cloud.calls[-2])
    assert cloud.calls[-1][5:7] == ["./a:b.json", "mine:texts/a.json"]


def test_an_empty_folder_is_not_sent(cloud):
    (cloud.home / "empty").mkdir()
    done = cloud.run("send", "mine", "empty", "/mnt/run/text", cwd=cloud.home)
    assert (done.returncode, done.stderr) == (2, "tpu_vm: send ./empty: is empty\n")
    assert cloud.calls == []


@pytest.mark.skipif(shutil.which("scp") is None, reason="no scp here")
def test_the_real_scp_takes_what_send_gives_it_in_its_old_protocol(cloud, tmp_path):
    """The one that clients before OpenSSH 9 speak, and gcloud by their means; again and again."""
    there, ssh, to = tmp_path / "my text", tmp_path / "ssh", tmp_path / "there"
    (there / "part").mkdir(parents=True)
    for name in ("one.txt", ".hidden", "part/two.txt"):
        (there / name).write_text(name)
    to.mkdir()
    ssh.write_text('#!/usr/bin/env bash\nwhile [ $# -gt 1 ]; do shift; done\nexec bash -c "$1"\n')
    ssh.chmod(0o755)
    for _ in range(2):
        assert cloud.run("send", "mine", "my text", "/mnt/run/text", cwd=tmp_path).returncode == 0
        sent = cloud.calls[-1][5:-3]
        assert sent[-1] == "./my text/part"
        subprocess.run(["scp", "-O", "-q", "-S", ssh, "-r", *sent, f"host:{to}"], check=True, cwd=tmp_path)
        assert {str(path.relative_to(to)) for path in to.rglob("*")} == {"one.txt", ".hidden", "part", "part/two.txt"}


@pytest.mark.parametrize(("place", "worker"), [("/mnt/run/a", "0"), ("a", "all")])
def test_what_all_hosts_see_is_sent_once(cloud, place, worker):
    assert cloud.run("send", "mine", str(SCRIPT), place, "--nfs", "h:/s").returncode == 0
    assert [f"--worker={worker}" in call for call in cloud.calls] == [True, True]


def test_secrets_reach_the_command_and_nothing_else(cloud):
    secret = 'it\'s $HOME "x"; exit 9'
    (cloud.home / "tmp").mkdir()
    cloud.environment |= {"HF_TOKEN": secret, "OTHER": "o", "TMPDIR": str(cloud.home / "tmp")}
    program = cloud.home / "jaxforget" / ".venv" / "bin" / "jaxforget"
    program.write_text('#!/usr/bin/env bash\nprintf %s "${HF_TOKEN-none}${OTHER-none}" >~/seen\nfind ~/tmp -type f\n')
    # On its way it is a file that others cannot read.
    gcloud = cloud.home / "bin" / "gcloud"
    gcloud.write_text(
        gcloud.read_text() + 'if verb == "scp": print(oct(os.stat(words[4]).st_mode & 0o777), words[4])\n'
    )
    done = cloud.run("run", "mine", "--env", "HF_TOKEN", "--env", "OTHER", "--", "forget")
    assert done.returncode == 0, done.stderr
    mode, path = done.stdout.split()  # and no file: while the command runs, nothing of it is left here
    assert (mode, Path(path).name) == ("0o600", "env")
    assert list((cloud.home / "tmp").iterdir()) == []
    assert (cloud.home / "seen").read_text() == secret + "o"
    assert not (cloud.home / "jaxforget.env").exists()
    left = [file.read_text() for file in (cloud.home / "jaxforget-run").iterdir()]
    assert not any("$HOME" in text for text in [*left, (cloud.home / "calls").read_text()])
    # The next one gets it only if it is given anew.
    (cloud.home / "jaxforget.env").write_text("export HF_TOKEN=left\n")
    del cloud.environment["HF_TOKEN"]
    assert cloud.run("run", "mine", "--", "forget").returncode == 0
    assert (cloud.home / "seen").read_text() == "noneo"


def test_a_secret_is_taken_back_where_the_command_did_not_start(cloud):
    cloud.environment["HF_TOKEN"] = "s3cret"
    gcloud = cloud.home / "bin" / "gcloud"
    refusing = 'if "setsid" in str(words): sys.exit(255)\ngroup, verb ='
    gcloud.write_text(gcloud.read_text().replace("group, verb =", refusing))
    assert cloud.run("run", "mine", "--env", "HF_TOKEN", "--", "forget").returncode == 255
    assert "--command=rm -f ~/jaxforget.env" in cloud.calls[-1]


def test_a_dry_run_shows_no_secret(cloud):
    cloud.environment["HF_TOKEN"] = "s3cret"
    done = cloud.run("keep", "mine", "--env", "HF_TOKEN", "--dry-run", "--", "forget")
    assert done.returncode == 0, done.stderr
    assert "HF_TOKEN" in done.stdout
    assert "s3cret" not in done.stdout + done.stderr
    assert cloud.run("run", "mine", "--env", "HF_TOKEN=s3cret", "--", "forget").stderr == (
        "tpu_vm: --env HF_TOKEN: give a variable's name alone; its value is taken from your environment\n"
    )


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


def test_dry_run_refuses_before_it_prints(cloud):
    done = cloud.run("keep", "mine", "--dry-run")
    assert (done.returncode, done.stdout) == (2, "")
    assert "name what to run behind --" in done.stderr


def test_every_slice_that_is_planned_for_can_be_asked_for(cloud):
    names = [f"{kind}-{size}" for kind, generation in GENERATIONS.items() for size in generation.shapes]
    for name in [*names, "v5litepod-8", "v5p-384"]:
        done = cloud.run("create", "mine", "--dry-run", "--runtime", "r", "--type", name)
        assert done.returncode == 0, done.stderr
        several = int(name.rpartition("-")[2]) > 8
        done = cloud.run("setup", "mine", "--dry-run", "--disk", "d", "--type", name)
        assert ("has several hosts" in done.stderr) is several


def test_the_commands_are_jaxforgets(cloud):
    said = cloud.run("run", "mine", "--", "frget").stderr
    names = {name.split()[0] for name in make_parser()[1]}
    assert set(said.rpartition("it has ")[2].split()) == names
    for name in names:
        assert cloud.run("run", "mine", "--dry-run", "--", name).returncode == 0


def test_words_name_what_is_on_the_vm(cloud):
    root = cloud.checkout()
    (root / "text").mkdir()
    (root / "runs" / "old" / "c.yaml").touch()
    (root / "0").touch()
    here = str(root / "c.yaml")
    for word in (
        here,
        "typo.yaml",
        "runs/old/c.yaml",
        f"corpus.path={here}",
        "corpus.path=text",
        "evals.probes=runs/old",
    ):
        done = cloud.run("keep", "mine", "--", "run", word, cwd=root)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"tpu_vm: {word}: does not travel with the checkout; scripts/tpu_vm send it" in done.stderr
    assert cloud.calls == []
    (root / "text" / "a.txt").touch()
    words = ["c.yaml", "new file.yaml", "corpus.path=text", "seed=0", "model.folder=meta-llama/x", "out=runs/old"]
    assert cloud.run("run", "mine", "--dry-run", "--", "run", *words, "/mnt/run/x.yaml", cwd=root).returncode == 0


@pytest.mark.parametrize("place", [["--disk", "d", "--project", "p"], ["--nfs", "h:/s"]])
def test_what_a_preemption_would_take_is_refused(cloud, place):
    for words in (
        ["run", "configs/toy.yaml"],
        ["forget", "runs/x"],
        ["run", "out=/mnt/runs/x"],
        ["eval", "/mnt/run/x", "out=x"],
    ):
        for command in ("run", "keep"):
            done = cloud.run(command, "mine", *place, "--", *words)
            assert (done.returncode, done.stderr.count("\n")) == (2, 1)
            assert "out= is not under /mnt/run" in done.stderr
            assert "give out=/mnt/run/mine" in done.stderr
    assert cloud.calls == []
    for words in (
        ["run", "configs/toy.yaml", "out=/mnt/run/x"],
        ["forget", "/mnt/run/x"],
        ["plan", "configs/toy.yaml"],
    ):
        assert cloud.run("keep", "mine", "--dry-run", "--spot", *place, "--", *words).returncode == 0


def test_nothing_to_stop_or_to_show_is_one_line(cloud):
    for command, said in (("logs", "no command was started here"), ("stop", "no command is under way here")):
        done = cloud.run(command, "mine")
        assert (done.returncode, done.stderr) == (3, f"tpu_vm: {said}\n")
    assert cloud.run("run", "mine", "--", "forget").returncode == 0
    done = cloud.run("stop", "mine")  # it has ended
    assert (done.returncode, done.stderr) == (3, "tpu_vm: no command is under way here\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["create"], "needs a NAME"),
        (["create", "Mine"], "Mine: a NAME is small letters, digits and hyphens"),
        (["create", "m" * 64], "63 at most"),
        (["creat", "mine"], "unknown command creat"),
        (["create", "mine", "--sopt"], "unknown option --sopt"),
        (["create", "mine", "--type"], "--type needs a value"),
        (["delete", "mine", "--project", "--dry-run"], "--project needs a value"),
        (["create", "mine", "--type", "tpu7x-8"], "name it with --runtime"),
        (["create", "mine", "--disk", "d"], "--disk needs --project"),
        (["keep", "mine", "--disk", "d", "--", "run", "out=/mnt/run/x"], "--disk needs --project"),
        (["keep", "mine", "--type", "tpu7x-8", "--", "run"], "name it with --runtime"),
        (["create", "mine", "--type", "v5e-9"], "no such size; of v5e there are 1 4 8 16 32 64 128 256"),
        (["create", "mine", "--type", "v5e"], "--type v5e: no such size"),
        (["create", "mine", "--type", "v4-and"], "--type v4-and: no such size"),
        (["create", "mine", "--type", "v9-8"], "no such family; there are v2, v3, v4"),
        (["create", "mine", "--type", "v5e-16", "--disk", "d"], "--disk: v5e-16 has several hosts"),
        (["setup", "mine", "--disk", "d", "--nfs", "h:/s"], "give one of the two"),
        (["setup", "mine", "--nfs", "10.0.0.2"], "--nfs 10.0.0.2: give HOST:/SHARE"),
        (["setup", "mine", "--nfs", "/share"], "--nfs /share: give HOST:/SHARE"),
        (["keep", "mine", "--spot", "--", "run"], "keep --spot: a preempted VM takes its own disk"),
        (["run", "mine", "--env", "NOT_SET_HERE", "--", "run"], "--env NOT_SET_HERE: is not set here"),
        (["run", "mine", "--", "run anchors"], "run anchors: jaxforget has no such command"),
        (["send", "mine", "there"], "send needs NAME LOCAL REMOTE"),
        (["send", "mine", "no such file", "/mnt/run/a"], "send no such file: no such file or folder here"),
        (["send", "mine", ".", "/mnt/run/my text"], "send to /mnt/run/my text: give a place of letters"),
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
    source = SCRIPT.read_text()
    commands = next(line for line in source.splitlines() if "create | setup | send" in line).strip(" );")
    options = next(line for line in source.splitlines() if "--zone | --project" in line).strip(" )")
    for word in [*commands.split(" | "), *options.split(" | "), "--spot", "--direct", "--dry-run"]:
        assert f"\n  {word} " in text


def test_the_recipe_of_the_help_and_of_the_readme_works(cloud):
    """Every line of it that is the script's passes the checks, where the files that it sends exist."""
    readme = (SCRIPT.parents[1] / "README.md").read_text().partition("`scripts/tpu_vm` does all of that")[2]
    for name in ("Llama-2-7b-chat-hf", "my_text", "my_anchors.json"):
        (cloud.home / name).touch()
    for text in (cloud.run("--help").stdout, readme.partition("## A run's folder")[0]):
        lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
        commands = [shlex.split(line)[1:] for line in lines if line.startswith("scripts/tpu_vm ")]
        assert [words[0] for words in commands] == ["create", "send", "send", "send", "keep", "fetch", "delete"]
        for words in commands:
            done = cloud.run(*words[:2], "--dry-run", "--project", "P", *words[2:], cwd=cloud.home)
            assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sorted(SCRIPT.parent.glob("tpu_vm*")), ids=lambda path: path.name)
def test_the_script_is_sound(path):
    subprocess.run(["bash", "-n", path], check=True)
    assert path.read_text().count("\n") <= 400
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)
