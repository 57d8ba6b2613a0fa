"""The bench of loading and saving on a model of nothing: what its figures say, and that they can say otherwise."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxforget import model
from jaxforget.models import load
from jaxforget.models.load import Checkpoint
from tests.models.tiny import save_tiny

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench_load.py"
# bfloat16: embedding and head, three layers' kernels and norms, the last norm.
STORED = 2 * (2 * 128 * 64 + 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 64 * 112 + 2 * 64) + 64)


@pytest.fixture(scope="module")
def bench():
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("bench_load", SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


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
    assert STORED / 8 < found["fullest_device"] < STORED / 8 * 1.05  # norms are held by all
    assert found["fullest_device"] * 8 == found["weights"]
    assert found["seconds"] > 0
    assert found["peak"] > found["weights"]


def test_a_device_that_holds_all_is_seen_and_bytes_that_are_read_twice(bench, folder, monkeypatch):
    split, once = model.param_shardings, load._read_slice

    def whole(config, mesh):
        return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec()), split(config, mesh))

    def twice(*words):
        once(*words)
        return once(*words)

    monkeypatch.setattr(model, "param_shardings", whole)
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
    precious = folder.with_name("m.exported")  # not the bench's: it neither saves there nor removes it
    precious.mkdir()
    both = [bench.ours(folder, "export"), bench.theirs(folder, "torch-export")]
    for found in both:
        assert found["weights"] >= STORED
        assert found["files"] > 2
        assert 0 < found["export_seconds"] <= found["synced_seconds"]
    assert list(folder.parent.glob("m.exported*")) == [precious]
