"""Errors of tpu_vm before its first call to the cloud, its help, and the README."""

import shlex
import shutil
import subprocess

import pytest

from jaxforget.cli.main import make_parser
from jaxforget.tpu.topology import GENERATIONS
from tests.scripts.cloud import SCRIPT


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
    readme = (
        (SCRIPT.parents[1] / "configs/slices/README.md").read_text().partition("`scripts/tpu_vm` does all of that")[2]
    )
    for name in ("Llama-2-7b-chat-hf", "my_text", "my_anchors.json"):
        (cloud.home / name).touch()
    for text in (cloud.run("--help").stdout, readme):
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
