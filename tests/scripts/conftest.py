"""Fixtures of the tests of scripts."""

import pytest

from tests.scripts.cloud import SAYS, Cloud


@pytest.fixture
def cloud(tmp_path) -> Cloud:
    return Cloud(tmp_path, SAYS)
