"""The documentation: its size, its links, and the files, tests and commands that it names."""

import re
from pathlib import Path

import pytest

from jaxforget.cli.main import main

ROOT = Path(__file__).parents[1]
NOT_OURS = {"runs", ".venv", "build", ".pytest_cache"}
PAGES = sorted(path for path in ROOT.rglob("*.md") if not NOT_OURS & set(path.relative_to(ROOT).parts))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


def headings(page: Path) -> set[str]:
    """Return the names by which a link refers to the headings of a page."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", line.strip("# ").lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        place = path.parent / name if name else path
        assert place.exists(), target
        assert not heading or heading in headings(place), target


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_in_commands_exist(path):
    named = set(re.findall(r"(?<![\w/.])(?:scripts|configs|jaxforget|tests)/[\w./-]+\w", path.read_text()))
    assert not [name for name in named if not (ROOT / name).exists() and not (path.parent / name).exists()]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_exist(path, capsys):
    commands = set(re.findall(r"^(?:\.venv/bin/)?jaxforget +([a-z]+)", path.read_text(), re.MULTILINE))
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main(["help", command])
        assert end.value.code == 0, command
        assert capsys.readouterr().out


def test_the_map_names_what_its_files_define():
    """Every name behind a link of jaxforget/README.md is defined in the linked file."""
    rows = re.findall(r"\]\(([\w/]+\.py)\) (`\w+`(?:, `\w+`)*)", (ROOT / "jaxforget/README.md").read_text())
    assert len(rows) >= 30
    for file, names in rows:
        text = (ROOT / "jaxforget" / file).read_text()
        for name in re.findall(r"\w+", names):
            assert re.search(rf"^\s*(?:def |class )?{name}\b", text, re.MULTILINE), f"{file}: {name}"


def test_tests_that_the_page_on_reliability_names_exist():
    """Words in brackets after a test file occur in the name of one of its tests."""
    named = re.findall(r"`(tests/[\w/]+\.py)` \(([\w ,-]+)\)", (ROOT / "jaxforget/RELIABILITY.md").read_text())
    assert named
    for file, words in named:
        tests = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE)
        for word in words.split(", "):
            assert any(re.sub(r"[ -]", "_", word) in test for test in tests), f"{file}: {word}"
