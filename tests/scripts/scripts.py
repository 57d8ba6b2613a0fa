"""The scripts as modules, and their faults, without a process for each."""

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def as_module(file: str) -> ModuleType:
    """scripts/`file`, its own imports found beside it as they are where it is run."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    path = SCRIPTS / file
    loader = SourceFileLoader(path.stem, str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(path.stem, loader))
    loader.exec_module(module)
    return module


def fault(script: ModuleType, monkeypatch, capsys, *words: object) -> str:
    """Run a script with `words`; return its error after checks that it is one line and the status is 2."""
    monkeypatch.setattr("sys.argv", [script.__file__, *map(str, words)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        script.command.run(script.__file__, script.main)
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith(f"{Path(script.__file__).stem}: ")
    assert said.count("\n") == 1
    return said
