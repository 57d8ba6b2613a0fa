"""scripts/plan_table: errors before compiling, and the text around the table stays."""

import pytest

from tests.scripts.scripts import as_module, fault


@pytest.fixture
def script(monkeypatch):
    """The script as a module; compiling fails the test."""
    module = as_module("plan_table")
    monkeypatch.setattr(module, "compile_presets", lambda *_, **__: pytest.fail("something was compiled"))
    return module


@pytest.fixture
def readme(script, tmp_path):
    path = tmp_path / "README.md"
    path.write_text("\n".join(["before", script.MARKS[0], "old", script.MARKS[1], "behind", ""]))
    return path


def test_faults_come_before_compiling(script, readme, tmp_path, monkeypatch, capsys):
    (tmp_path / "unmarked.md").write_text(readme.read_text().replace(script.MARKS[1], ""))
    for words, said in (
        (["--readme", tmp_path / "nowhere.md"], "nowhere.md: no such file"),
        (["--readme", tmp_path / "unmarked.md"], "unmarked.md: lacks the lines <!-- plan"),
        (["--readme", readme, "--rows", readme], "is a file; name a folder"),
        (["--readme", readme, "nosuch"], "nosuch: no such preset"),
        (["--readme", readme, "--presets"], "unrecognized arguments: --presets"),
    ):
        assert said in fault(script, monkeypatch, capsys, *words)
    monkeypatch.setattr(script.command, "find_spec", lambda _: None)
    said = fault(script, monkeypatch, capsys, "--readme", readme)
    assert "libtpu is not installed; " in said
    assert ".venv/bin/pip install libtpu" in said


def test_the_table_takes_the_old_ones_place(script, readme, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "compile_presets", lambda *_, **__: None)
    monkeypatch.setattr(script, "as_markdown", lambda rows: f"{len(rows)} rows")
    script.main(["--readme", str(readme), "--rows", str(tmp_path / "rows")])
    before, first, table, blank, missing, *behind = readme.read_text().splitlines()
    assert [before, first, table, blank, *behind] == [
        "before", script.MARKS[0], "0 rows", "", script.MARKS[1], "behind"
    ]  # fmt: skip
    assert missing.startswith("Not compiled yet: [llama")
    assert "[llama2_7b_v5e-8](llama2_7b_v5e-8.yaml)" in missing
