"""scripts/tpu_vm: create a VM, run on it, stream the log, and continue after preemptions."""

import contextlib
import os
import signal
import subprocess

from tests.scripts.cloud import Cloud


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
        # The same command resumes the watching, or shows how the run ended.
        assert cloud.run("logs", "mine").stdout == "ready\ndone\n"
        assert cloud.verbs.count("tpu-vm scp") == 1
    finally:
        (tmp_path / "go").touch()
        first.kill()


def test_keep_goes_on_after_a_preemption(cloud):
    # Requested; preempted while it runs, which the queued resource does not show; requested again.
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
    # The printed commands can be typed: a shell gives the words back unchanged.
    start = done.stdout.splitlines()[-2]
    script = subprocess.run(["bash", "-c", f"printf '%s\\n' {start}"], capture_output=True, text=True).stdout
    assert ".venv/bin/jaxforget run a=b\\ c" in script
