"""Files and secrets that tpu_vm sends to a TPU VM."""

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.scripts.cloud import SCRIPT, Cloud


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
