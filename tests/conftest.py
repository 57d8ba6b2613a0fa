"""Settings of all tests: eight CPU devices, strict dtype and rank promotion, and a compilation cache."""

import gc
import os
from pathlib import Path

from tests.compiler import xla_flags

# These are set before JAX starts. The platform is fixed, because an accelerator would change results.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = xla_flags(devices=8)
os.environ["HF_HUB_OFFLINE"] = "1"
# Threads of XLA's CPU client. It takes one per device; devices that wait for each other in a collective then leave no
# thread for the work that they wait for, and XLA ends the process after 40 seconds, rarely and on busy machines.
os.environ["NPROC"] = "24"

import jax
import pytest

from jaxforget.__main__ import GARBAGE_THRESHOLDS
from jaxforget.lm import model
from jaxforget.sharding import make_mesh
from jaxforget.stages import run
from tests.stubbed_chain import stubbed as stubbed

jax.devices()  # reads the flags
os.environ["XLA_FLAGS"] = xla_flags(devices=8, tpu_compiler=True)
if cache := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    # Programs compiled with flags that the variable no longer names must not reach the children of this process.
    jax.config.update("jax_compilation_cache_dir", f"{cache}/tests")

gc.set_threshold(*GARBAGE_THRESHOLDS)
os.fsync = lambda file: None  # waiting for the disk protects from a machine's failure, which ends a test anyway
jax.config.update("jax_numpy_dtype_promotion", "standard")


def _mesh_of_two(data: int = 1, fsdp: int = -1, tensor: int = 1) -> jax.sharding.Mesh:
    """Return the mesh over two of the eight devices where a configuration names no sizes, and over all where it does.

    A program for two devices is split among devices as one for eight is, and compiles in three quarters of the time.
    """
    named = (data, fsdp, tensor) != (1, -1, 1)
    return make_mesh(data, fsdp, tensor, devices=jax.devices() if named else jax.devices()[:2])


run.make_mesh = model.make_mesh = _mesh_of_two

LONGEST_FIRST = ("end_to_end", "scripts", "compare", "tpu", "stages", "train", "models")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the folders of long tests first, so that no worker begins a long file when the others have ended."""
    order = {name: place for place, name in enumerate(LONGEST_FIRST)}
    root = Path(__file__).parent
    items.sort(key=lambda item: order.get(item.path.relative_to(root).parts[0], len(order)))


def pytest_unconfigure() -> None:
    """Keep pytest, which collects garbage five times at its end, from going over all that is alive each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def devices() -> list[jax.Device]:
    """The eight CPU devices."""
    found = jax.devices()
    assert len(found) == 8, "XLA_FLAGS was read before conftest set it"
    return found


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory) -> Path:
    """The folder of `tests.tiny_run.make_world`; tests must not change it."""
    from tests.tiny_run import make_world

    return make_world(tmp_path_factory.mktemp("tiny") / "world")


@pytest.fixture(scope="session")
def tiny_run(tiny_world) -> Path:
    """The folder of a finished run on `tiny_world`; tests must copy it before they change it."""
    from jaxforget.config import config_from
    from jaxforget.pipeline import run_chain
    from tests.tiny_run import settings

    return run_chain(config_from(settings(tiny_world, tiny_world.parent / "run"))).folder
