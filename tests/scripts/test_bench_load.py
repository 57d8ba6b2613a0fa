"""scripts/bench_load.py on a tiny model: its figures are right, and they change when loading is worse."""

import errno
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxforget.errors import UserError
from jaxforget.lm import forward
from jaxforget.models import export, load
from jaxforget.models.load import Checkpoint
from tests.models.tiny import save_tiny
from tests.scripts.scripts import SCRIPTS, as_module, fault

SCRIPT = SCRIPTS / "bench_load.py"
# Bytes in bfloat16: embedding and head, three layers' kernels and norms, the last norm.
STORED = 2 * (2 * 128 * 64 + 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 112 + 2 * 64) + 64)


@pytest.fixture(scope="module")
def bench():
    """The script as a module."""
    return as_module("bench_load.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny model in bfloat16."""
    made = tmp_path_factory.mktemp("bench") / "m"
    save_tiny(made).bfloat16().save_pretrained(made)
    return made


@pytest.fixture(autouse=True)
def _reading_is_counted_in_here_only(monkeypatch):
    monkeypatch.setattr(Checkpoint, "read_into", Checkpoint.read_into)


def test_a_devices_part_and_what_is_read_of_the_files(bench, folder):
    found = bench.ours(folder, "eight")
    assert found["read"] == STORED
    assert STORED / 8 < found["fullest_device"] < STORED / 8 * 1.05  # every device holds the norms
    assert found["fullest_device"] * 8 == found["weights"]
    assert found["seconds"] > 0
    assert found["peak"] > found["weights"]


def test_a_device_that_holds_all_is_seen_and_bytes_that_are_read_twice(bench, folder, monkeypatch):
    split, once = forward.param_shardings, load._read_slice

    def whole(config, mesh):
        return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), split(config, mesh))

    def twice(*words):
        once(*words)
        return once(*words)

    monkeypatch.setattr(forward, "param_shardings", whole)
    monkeypatch.setattr(load, "_read_slice", twice)
    found = bench.ours(folder, "eight")
    assert found["fullest_device"] == STORED
    assert found["weights"] == 8 * STORED
    assert found["read"] == 2 * STORED


def test_two_processes_read_half_each_and_the_table_says_so(folder):
    done = subprocess.run([sys.executable, SCRIPT, folder, "--case", "two", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert [row["case"] for row in rows] == ["two", "two"]
    for row in rows:
        assert row.keys() == {"case", "seconds", "peak", "read", "weights", "fullest_device"}
        assert STORED / 2 <= row["read"] < STORED / 2 * 1.05
        assert row["weights"] == 4 * row["fullest_device"]


def test_saving(bench, folder, monkeypatch):
    monkeypatch.setattr(bench, "SHARD", 60_000)
    precious = folder.with_name("m.exported")  # not the bench's folder: it must neither write to it nor remove it
    precious.mkdir()
    both = [bench.ours(folder, "export"), bench.theirs(folder, "torch-export")]
    for found in both:
        assert found["weights"] >= STORED
        assert found["files"] > 2
        assert 0 < found["export_seconds"] <= found["synced_seconds"]
    assert list(folder.parent.glob("m.exported*")) == [precious]


@pytest.fixture
def cut(folder, tmp_path) -> Path:
    """The model with a truncated weights file."""
    made = tmp_path / "cut"
    shutil.copytree(folder, made)
    weights = (made / "model.safetensors").read_bytes()
    (made / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    return made


@pytest.fixture
def _no_case_is_run(bench, monkeypatch):
    monkeypatch.setattr(bench, "measure", lambda *_: pytest.fail("a case was run"))


@pytest.mark.usefixtures("_no_case_is_run")
def test_faults_come_before_the_first_case(bench, folder, cut, tmp_path, monkeypatch, capsys):
    (tmp_path / "bare").mkdir()
    shutil.copy(folder / "config.json", tmp_path / "bare")
    (tmp_path / "weights").mkdir()
    shutil.copy(folder / "model.safetensors", tmp_path / "weights")
    for place, said in (
        (cut, f"{cut}/model.safetensors: truncated"),
        (tmp_path / "nowhere", "nowhere: no such folder"),
        (folder / "config.json", "config.json: no such folder"),
        (tmp_path / "bare", "no *.safetensors"),
        (tmp_path / "weights", "weights/config.json: no such file"),
    ):
        assert said in fault(bench, monkeypatch, capsys, place)
    assert "--case: invalid choice: 'all'" in fault(bench, monkeypatch, capsys, folder, "--case", "all")


@pytest.mark.usefixtures("_no_case_is_run")
def test_a_small_disk_and_a_missing_torch_are_told_with_the_cases_that_need_neither(bench, folder, monkeypatch, capsys):
    command = bench.command
    monkeypatch.setattr(command.shutil, "disk_usage", lambda _: type("Usage", (), {"free": STORED - 1}))
    said = fault(bench, monkeypatch, capsys, folder)
    assert f"{folder.parent}: 0.0 GB are to be written" in said
    assert "or give --case one --case torch --case eight --case two\n" in said
    with pytest.raises(pytest.fail.Exception, match="a case was run"):  # this case writes nothing
        fault(bench, monkeypatch, capsys, folder, "--case", "one")
    monkeypatch.setattr(command, "find_spec", lambda _: None)
    assert "torch is not installed" in fault(bench, monkeypatch, capsys, folder, "--case", "torch-export")


def test_a_cases_fault_is_told_by_who_started_it(bench, cut):
    with pytest.raises(UserError, match=r"^case one: .*cut/model.safetensors: truncated"):
        bench.measure(cut, "one")


def test_a_full_disk_leaves_nothing(bench, folder, monkeypatch):
    def full(target, *_, **__):
        (target / "half").write_text("")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(export, "save_params", full)
    before = set(folder.parent.iterdir())
    assert "No space left on device; free space there" in bench.inside(folder, "export")["fault"]
    assert set(folder.parent.iterdir()) == before
