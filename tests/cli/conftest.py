"""Fixtures of the tests of commands."""

import os
import shutil
from pathlib import Path

import pytest

from tests.tiny_run import settings, write_config


@pytest.fixture(autouse=True)
def _keep_the_cache_where_it_is(monkeypatch):
    # A name that is set keeps the command from moving the compilation cache of this whole process.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", os.environ.get("JAX_COMPILATION_CACHE_DIR", ""))


@pytest.fixture
def config(tiny_world, tmp_path) -> Path:
    """A sound configuration; the tests spoil it by words behind it."""
    return write_config(tmp_path / "c.yaml", settings(tiny_world, tmp_path / "run"))


@pytest.fixture
def copied(tiny_run, tmp_path) -> Path:
    """A finished run of one's own."""
    return shutil.copytree(tiny_run, tmp_path / "moved")
