"""Run commands in tests, and read the one line that a wrong one prints."""

from pathlib import Path

from jaxforget.cli import main


def status_of(*words: str | Path) -> int:
    try:
        return main([str(word) for word in words])
    except SystemExit as leaving:
        return leaving.code


def fault(capsys, *words: str | Path, lines: int = 1) -> str:
    """The only line that the command says before it ends with status 2, or the last of `lines` if stages ran before."""
    assert status_of(*words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    told = said.err.splitlines()
    assert told[-1].startswith("jaxforget: ")
    assert len(told) == lines or (lines > 1 and len(told) > 1), said.err
    return told[-1].removeprefix("jaxforget: ")
