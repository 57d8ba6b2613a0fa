"""scripts/bench_step.py on a tiny model: its sides compute the same step."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.models.export import config_to_hf
from tests.compiler import xla_flags
from tests.scripts.scripts import as_module, fault

ROOT = Path(__file__).parents[2]
SMALL = ["--layers", "1", "--width", "32", "--inner", "48", "--heads", "2", "--vocabulary", "300"]
SHORT = [*SMALL, "--length", "24", "--blocks", "2", "--rounds", "2"]


def bench(*words: str) -> subprocess.CompletedProcess:
    script = ROOT / "scripts" / "bench_step.py"
    environment = os.environ | {"XLA_FLAGS": xla_flags(1)}  # eight devices cannot share two blocks
    command = [sys.executable, script, "--device", "cpu", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.fixture(scope="module")
def result() -> dict:
    # Options before and after a flag; all but the last hold for the torch side too.
    computed = ("forget.learning_rate=1e-2", "forget.b1=0.5", "forget.b2=0.6", "forget.eps=1e-3")
    done = bench(*computed, *SHORT, "--json", "forget.weight_decay=0.3", "targets.tile=16")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_sides_train_alike(result):
    ours, theirs, cached = (result["sides"][name]["losses"] for name in ("ours", "torch", "cached"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    np.testing.assert_allclose(ours[:2], cached[:2], rtol=1e-5)
    assert len(ours) == 3
    assert ours[2] < ours[0]


def test_ratios_are_ours_over_theirs(result):
    ours, theirs = (result["sides"][name] for name in ("ours", "torch"))
    weights = 3 * 28_000 * 4  # two of 300 x 32, 4 x 32 x 32, 3 x 32 x 48 and three norms
    for side in (ours, theirs):
        # Three models' fp32 weights, two moments of one of them, and a few counters.
        assert weights * 5 / 3 <= side["held"] < weights * 5 / 3 + 100
        assert side["beyond_bytes"] == side["peak"] - side["held"] > side["libraries"] / 2
        assert side["tokens_per_second"] == pytest.approx(48 / np.median(side["seconds"]))
    assert result["tokens_per_second_ratio"] == ours["tokens_per_second"] / theirs["tokens_per_second"]
    assert result["memory_ratio"] == ours["beyond_bytes"] / theirs["beyond_bytes"]


@pytest.fixture
def step(monkeypatch):
    """The script as a module; making weights fails the test."""
    script = as_module("bench_step.py")
    monkeypatch.setattr(script, "write_random_llama", lambda *_, **__: pytest.fail("weights were made"))
    monkeypatch.setattr(script.os, "sched_getaffinity", lambda _: {0, 1})
    return script


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--vocabulary 1", "--vocabulary: '1': give a whole number from 4"),
        ("--rounds 0", "--rounds: '0'"),
        ("--length 7", "--length: '7': give a whole number from 8"),
        ("--untrained nan", "--untrained: 'nan': give a number from 0 to below 1"),
        ("--untrained 1", "--untrained: '1'"),
        ("--threads -1", "--threads: '-1'"),
        ("--threads 3", "--threads 3: this process may use 2; give so many or fewer"),
        ("--heads 3", "--width 32, --heads 3: "),
        ("--layers 1000000000", "GB are to be written, its disk has"),
        ("--tokens 3", "unrecognized arguments: --tokens"),
        ("targets.tiles=3", "did you mean targets.tile?"),
        ("targets.tile", "'targets.tile': options are written key=value"),
        ("forget.accumulate=3", "forget.accumulate 3 does not divide the 2 rows"),
        ("forget.batch=4", "forget.batch: the bench does not take this option; give --blocks"),
        ("forget.batch=128", "forget.batch: "),  # the option's default, but not the value of --blocks
        ("blocks.length=64", "blocks.length: the bench does not take this option; give --length"),
        ("targets.cache=true", "targets.cache: the bench does not take this option; give --side cached"),
        ("model.folder=x", "model.folder: the bench does not take this option; give --layers"),
        ("forget.weights=lora", "forget.weights: the bench does not take this option; leave it out; those it takes"),
        ("reinforce.weights=int8-delta", "reinforce.weights: "),
        ("model.base=int8", "model.base: "),
        ("retain.weight=1", "retain.weight: the bench does not take"),
        ("corpus.path=x", "corpus.path: "),
        ("'forget={weights: lora}'", "forget: the bench does not take"),
        ("forget[weights]=lora", "forget[weights]: the bench does not take"),
        ("seed=0", "seed: "),
        ("method=whp_soft", "method=whp_soft: sides torch and cached train towards labels; add --side ours"),
        ("method=whp_soft --side ours --side cached", "method=whp_soft: "),
        ("forget.clip_norm=1", "forget.clip_norm: side torch does not have it; add --side ours --side cached"),
        ("forget.warmup_steps=2 --side torch", "forget.warmup_steps: "),
    ],
)
def test_faults_are_one_line_before_any_weight_is_made(step, monkeypatch, capsys, words, said):
    assert said in fault(step, monkeypatch, capsys, *SHORT, "--device", "cpu", *shlex.split(words))


def test_what_the_machine_lacks_is_told(step, monkeypatch, capsys):
    monkeypatch.setattr(step.shutil, "which", lambda _: None)
    assert "--device gpu: this machine has no nvidia-smi" in fault(step, monkeypatch, capsys, "--device", "gpu")
    monkeypatch.setattr(step.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    assert "--threads: a GPU's sides" in fault(step, monkeypatch, capsys, "--device", "gpu", "--threads", "1")
    monkeypatch.setattr(step.command, "find_spec", lambda _: None)
    said = fault(step, monkeypatch, capsys, "--device", "cpu")
    assert "torch is not installed; scripts/test installs it; or add --side ours --side cached" in said
    with pytest.raises(pytest.fail.Exception, match="weights were made"):
        fault(step, monkeypatch, capsys, *SHORT, "--device", "cpu", "--side", "ours")


def test_a_gpus_sides_refuse_libraries_that_have_none():
    with pytest.raises(UserError, match="JAX finds no GPU"):
        as_module("bench/jax_side.py").check_gpu()
    with pytest.raises(UserError, match="torch finds no GPU"):
        as_module("bench/torch_side.py").TorchSide(
            None, None, {}, {}, device="gpu", alpha=5.0, adamw={}, checkpointing=True, threads=None
        )


def test_a_sides_fault_is_one_line():
    done = bench(*SHORT, "mesh.tensor=2")
    assert done.returncode == 2
    assert done.stderr == (
        "bench_step: side ours: mesh.data=1, mesh.fsdp=-1, mesh.tensor=2: does not divide 1 devices; "
        "give sizes that do, one of them -1 (the rest)\n"
    )


def test_the_torch_side_takes_alpha(step):
    # With unrelated models alpha changes no label, since base's argmax is not the other model's.
    given = step.parse(["--device", "cpu", *SHORT])
    config, batch = config_to_hf(step.shape_of(given)), step.make_batch(2, 24, 0.25, 300, 0)
    more = {"device": "cpu", "adamw": {}, "checkpointing": False, "threads": None}
    side = as_module("bench/torch_side.py").TorchSide(None, None, config, batch, alpha=0.0, **more)
    side.reinforced.load_state_dict(side.base.state_dict())
    side.reinforced.lm_head.weight.mul_(2)
    at_zero = side.labels()
    side.alpha = 5.0
    assert (side.labels() != at_zero).any()


class Read:
    """A configuration that records which of its options are read."""

    def __init__(self, node, seen, above=""):
        self._node, self._seen, self._above = node, seen, above

    def __getattr__(self, name):
        value, whole = getattr(self._node, name), f"{self._above}{name}"
        if hasattr(value, "__dataclass_fields__"):
            return Read(value, self._seen, f"{whole}.")
        self._seen.add(whole)
        return value


def test_the_options_taken_are_those_that_our_side_reads(step, monkeypatch):
    side, seen = as_module("bench/jax_side.py"), set()
    monkeypatch.setattr(side, "config_from", lambda *_: Read(config_from({}, ["model.dtype=float32"]), seen))
    given = step.parse(["--device", "cpu", *SHORT])
    config, batch = config_to_hf(step.shape_of(given)), step.make_batch(8, 24, 0.25, 300, 0)
    side.JaxSide(None, None, config, batch, words=[], cached=False)
    # The step reads these too, which the bench leaves at their defaults; the objective is that of the option `method`.
    assert seen == set(as_module("bench/words.py").HONOURED) | {
        "targets.cache",
        "targets.suppress",
        "retain.weight",
        "forget.sam",
        "ilu.weight",
        "objective",
    }
    with pytest.raises(UserError, match="--blocks 9: 8 devices in forget.accumulate=1 .* multiple of 8"):
        side.JaxSide(None, None, config, step.make_batch(9, 24, 0.25, 300, 0), words=[], cached=False)
