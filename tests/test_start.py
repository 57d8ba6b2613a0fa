"""What is set before the first computation, in processes of their own: it is once and for all."""

import os
import subprocess
import sys
from pathlib import Path

from jaxforget.start import _has_tpu

ROOT = Path(__file__).parents[1]


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_", "XLA_"))}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=mine | environment
    )


def test_compilations_are_kept_and_libtpu_without_a_tpu_is_quiet(tmp_path):
    code = (
        "from jaxforget.start import start_jax\nstart_jax()\nstart_jax()\n"
        "import jax\nprint(jax.config.jax_compilation_cache_dir, jax.devices()[0].platform)"
    )
    done = python(code, XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.split()[0] == str(tmp_path / "jaxforget" / "xla")
    assert done.stderr == ""


def test_a_cache_that_the_user_chose_stays(tmp_path):
    code = (
        "import jax\njax.config.update('jax_compilation_cache_dir', '/elsewhere')\n"
        "from jaxforget.start import start_jax\nstart_jax()\nprint(jax.config.jax_compilation_cache_dir)"
    )
    assert python(code, JAX_PLATFORMS="cpu").stdout.split() == ["/elsewhere"]


def test_run_from_python_joins_hosts_and_says_when_it_is_too_late(tmp_path):
    code = (
        "import jax, jaxforget\njax.numpy.zeros(3) + 1\n"
        f"try: jaxforget.run({{'out': {str(tmp_path / 'run')!r}}})\n"
        "except jaxforget.errors.UserError as error: print(error)"
    )
    hosts = {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    done = python(code, JAX_PLATFORMS="cpu", **hosts)
    assert done.stdout.startswith("this process has used JAX before the hosts of the run were joined"), done.stderr


def test_device_files_of_a_tpu(tmp_path):
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # there without a TPU, too
    assert not _has_tpu(tmp_path)
    (tmp_path / "vfio" / "0").touch()
    assert _has_tpu(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "accel0").touch()
    assert _has_tpu(tmp_path / "old")
