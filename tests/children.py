"""The environment of processes that tests start."""

import os
from collections.abc import Mapping
from pathlib import Path

WITHOUT_TORCH = Path(__file__).with_name("without_torch")


def without_torch(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` for a Python process that finds no PyTorch."""
    path = environment.get("PYTHONPATH")
    return {**environment, "PYTHONPATH": os.pathsep.join([str(WITHOUT_TORCH), *([path] if path else [])])}
