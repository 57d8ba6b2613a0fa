"""A step of a tiny run, traced on eight fake devices; and the command on a run's own blocks.

Each profile in a process of its own: other tests have this one load the TPU compiler, beside which tracing crashes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.models.layout import parameter_count
from jaxforget.models.published import read_shape
from jaxforget.tpu.profile import as_text, profile
from jaxforget.tpu.topology import GENERATIONS, find_slice, peak_of, slice_devices
from tests.children import without_torch
from tests.cli.saying import status_of
from tests.tiny_run import write_config
from tests.tpu.tiny import model_folder, tiny_config, tiny_values

UNREADABLE = """
import jax
from jaxforget.tpu import profile
profile.compile_with_text = lambda lowered: (lowered.compile(), None)
"""


def run(*words: str | Path, before: str = "") -> subprocess.CompletedProcess[str]:
    """`jaxforget profile ...` to its end, by a user who has libtpu installed and says nothing of platforms."""
    code = f"import sys; from jaxforget.cli import main\n{before}\nsys.exit(main())"
    command = [sys.executable, "-c", code, "profile", *map(str, words)]
    environment = without_torch({name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"})
    return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)


def test_a_step_of_a_model_without_weights(tmp_path):
    model = model_folder(tmp_path / "model")
    values = {
        "out": str(tmp_path / "run"),
        "model": {"folder": str(model)},
        "retain": {"path": "x", "rows": 8, "weight": 0.5},
    }
    config = write_config(tmp_path / "c.yaml", tiny_values(model) | values)
    done = run(config, "--steps", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["blocks"], found["block_length"], found["devices"], found["steps"]) == (24, 32, 8, 2)
    assert found["batch"].startswith("random tokens")
    assert found["tokens_per_second"] == pytest.approx(24 * 32 / found["step_seconds"])
    assert found["tokens_per_second_per_chip"] == pytest.approx(found["tokens_per_second"] / 8)
    assert found["flops_per_token"] == 10 * parameter_count(read_shape(str(model))[0])
    assert found["mfu"] is None  # a CPU has no published peak
    for part in ("base", "reinforced", "student forward", "student backward", "tiles", "optimizer", "collectives"):
        assert found["parts"][part] > 0, part
    assert found["operation_seconds"] == pytest.approx(sum(found["parts"].values()))
    assert found["parts"]["other"] + found["parts"]["unattributed"] < 0.3 * found["operation_seconds"]
    assert Path(found["trace"]).is_relative_to(tmp_path / "run" / "xprof" / "plugins" / "profile")
    text = as_text(found)
    assert ", plain attention\n" in text
    assert "MFU unknown" in text
    assert found["note"] is None
    assert "note" not in text
    assert as_text(found | {"note": "parts are of another"}).endswith("\nnote: parts are of another")
    assert str(found["trace"]) in text
    assert "compiling forget for 8 x " in done.stderr


def test_a_place_that_cannot_be_written_is_told_before_compiling(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "xprof").write_text("")
    config = write_config(tmp_path / "c.yaml", tiny_values(model_folder(tmp_path / "model")))
    done = run(config, f"out={tmp_path}/run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"jaxforget: {tmp_path}/run/xprof: File exists; ")


def test_the_command_takes_the_runs_own_blocks(tiny_run, capsys):
    done = run(tiny_run, "--step", "reinforce", "--steps", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["batch"] == f"prepared in {tiny_run / 'blocks' / 'target'}"
    assert found["parts"]["base"] == found["parts"]["reinforced"] == 0
    assert found["parts"]["student backward"] > 0
    assert status_of("profile", tiny_run, "--steps", "0") == 2
    assert capsys.readouterr().err == "jaxforget: --steps 0: give 1 to 100\n"


def test_a_program_that_cannot_be_read_is_timed_all_the_same(tmp_path):
    model = model_folder(tmp_path / "model")
    config = write_config(tmp_path / "c.yaml", tiny_values(model) | {"out": str(tmp_path / "run")})
    done = run(config, "--steps", "1", before=UNREADABLE)
    assert done.returncode == 0, done.stderr
    assert "tokens/s" in done.stdout
    assert "note: parts and longest are unknown: the compiled program's text cannot be read" in done.stdout


def test_beside_the_tpu_compiler_it_refuses_and_does_not_crash(tmp_path):
    slice_devices(find_slice("v5e-4"))
    with pytest.raises(UserError, match="in a process of its own"):
        profile(tiny_config(model_folder(tmp_path / "m"), f"out={tmp_path / 'run'}"), steps=1)


def test_what_must_be_named(tmp_path):
    with pytest.raises(UserError, match="out is not set"):
        profile(tiny_config(model_folder(tmp_path / "m")))
    with pytest.raises(UserError, match=r"model\.folder is not set"):
        profile(config_from({}, [f"out={tmp_path}"]))


def test_a_folder_that_a_run_refuses_is_refused(tmp_path):
    """Before, xprof/ was written into the corpus, and the next run read it as text."""
    text = tmp_path / "text"
    text.mkdir()
    (text / "a.txt").write_text("Zorvath")
    config = tiny_config(model_folder(tmp_path / "m"), f"corpus.path={text}", f"out={text / 'run'}")
    with pytest.raises(UserError, match=f"out={text}/run: lies inside corpus.path={text}"):
        profile(config)
    with pytest.raises(UserError, match=r"holds files that no run wrote \(a.txt\); name an empty or a new folder$"):
        profile(tiny_config(tmp_path / "m", f"out={text}"))
    assert [path.name for path in text.iterdir()] == ["a.txt"]


def test_peaks_are_a_chips():
    assert peak_of("TPU v3") == (2, 123e12)
    assert peak_of("TPU v5 lite") == (1, GENERATIONS["v5e"].tflops * 1e12)
    assert peak_of("cpu") == (1, None)
