"""Hosts that share a disk leave what one host leaves, and so does a run that goes on with other devices."""

import json
import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxforget.cli import main
from jaxforget.train.metrics import MetricsLog, read_records
from tests.end_to_end.processes import Command
from tests.tiny_run import settings, write_config

UNASKED = {"every": 0, "probes": None, "heldout": None}
STOPPED = 2


def assert_same_weights(run: Path, undisturbed: Path, *names: str) -> None:
    for name in names:
        ours, theirs = (load_file(folder / name / "model.safetensors") for folder in (run, undisturbed))
        assert ours.keys() == theirs.keys()
        for tensor in ours:
            np.testing.assert_allclose(ours[tensor], theirs[tensor], atol=1e-5, err_msg=f"{name}: {tensor}")


def losses(run: Path) -> dict[tuple[str, int], float]:
    told = [record for record in read_records(run / "metrics.jsonl") if record["kind"] == "train"]
    return {(record["stage"], record["step"]): record["loss"] for record in told}


def start_hosts(config: Path, code: str = "") -> list[Command]:
    """Start a run of two processes with four devices each; the mesh of `tiny_run` has two devices.

    Args:
      config: the configuration.
      code: what both execute first.
    """
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    several = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    return [Command("run", config, devices=4, code=code, JAX_PROCESS_ID=str(index), **several) for index in (0, 1)]


def test_two_processes_leave_what_one_leaves(tiny_world, tiny_run, tmp_path):
    values = settings(tiny_world, tmp_path / "run", targets={"cache": True}, evals=UNASKED)
    config = write_config(tmp_path / "c.yaml", values)
    hosts = start_hosts(config)
    assert [host.wait() for host in hosts] == [0, 0], "\n".join(host.told for host in hosts)
    # Only the first one speaks and writes.
    assert any(line.endswith(", forget") for line in hosts[0].lines)
    assert not any(line.endswith(", forget") for line in hosts[1].lines)
    devices = json.loads((tmp_path / "run" / "manifest.json").read_text())["devices"]
    assert (devices["count"], devices["processes"]) == (8, 2)
    assert_same_weights(tmp_path / "run", tiny_run, "reinforced", "unlearned", "export")
    for name in ("anchors.json", "blocks/target/blocks.json", "evals/completions.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tiny_run / name).read_bytes()
    # Of the last batch that gets labels, the second host has no block: nobody waits for it.
    assert 0 < json.loads((tiny_run / "blocks" / "target" / "blocks.json").read_text())["splits"]["train"] % 8 <= 4
    ours, theirs = losses(tmp_path / "run"), losses(tiny_run)
    assert set(ours) == set(theirs) == {("reinforce", n) for n in (1, 2, 3)} | {("forget", n) for n in (1, 2, 3, 4)}
    np.testing.assert_allclose([ours[step] for step in theirs], list(theirs.values()), rtol=1e-5)


def test_a_lost_process_ends_the_other_and_the_same_command_goes_on(tiny_world, tiny_run, tmp_path):
    values = settings(tiny_world, tmp_path / "run", evals=UNASKED, checkpoints={"every": 1})
    config = write_config(tmp_path / "c.yaml", values)
    hosts = start_hosts(config, "from jaxforget import start; start.LOST_SECONDS = 6")
    saved = tmp_path / "run" / "checkpoints" / "reinforce" / "steps" / "1"
    hosts[1].when(lambda _: saved.is_dir())
    assert hosts[1].send(signal.SIGKILL) == -signal.SIGKILL
    assert hosts[0].wait() != 0
    assert "another process of this run ended" in hosts[0].told or "another task died" in hosts[0].told
    assert "Traceback" not in hosts[0].told
    hosts = start_hosts(config)
    assert [host.wait() for host in hosts] == [0, 0], "\n".join(host.told for host in hosts)
    assert any("from the checkpoint of step" in line for line in hosts[0].lines)
    assert_same_weights(tmp_path / "run", tiny_run, "reinforced", "unlearned", "export")


def test_stopped_on_eight_devices_it_goes_on_with_two(tiny_world, tiny_run, tmp_path, devices, capfd):
    given = {"reinforced": str(tiny_run / "reinforced")}
    config = write_config(tmp_path / "c.yaml", settings(tiny_world, tmp_path / "run", model=given, evals=UNASKED))
    write = MetricsLog.write

    def stopping(self, step, *values, **more):
        write(self, step, *values, **more)
        if step == STOPPED:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetricsLog, "write", stopping)
        assert main(["run", str(config), "mesh.fsdp=8"]) == 143
    # A step's loss is read while the next one runs, which is then saved as well.
    assert f"forget: stopped by SIGTERM, saved at step {STOPPED + 1}" in capfd.readouterr().err
    assert not (tmp_path / "run" / "unlearned").exists()
    recorded = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert recorded["devices"]["count"] == 8
    command = Command("run", config, devices=2)
    assert command.wait() == 0, command.told
    assert f"  continuing from the checkpoint of step {STOPPED + 1}" in command.lines
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["devices"]["count"] == 2
    assert_same_weights(tmp_path / "run", tiny_run, "unlearned", "export")
    ours, theirs = losses(tmp_path / "run"), losses(tiny_run)
    np.testing.assert_allclose(
        [ours["forget", n] for n in (1, 2, 3, 4)], [theirs["forget", n] for n in (1, 2, 3, 4)], rtol=1e-5
    )
