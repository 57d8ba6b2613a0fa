"""`scripts/update_readme`: the sections that it writes, and the picture of the page's first screen."""

import json
from pathlib import Path

import pytest

from tests.report.synthetic import write_run
from tests.scripts.scripts import as_module

ROOT = Path(__file__).parents[2]


def test_the_first_screen_is_drawn(tmp_path):
    script = as_module("update_readme")
    script.first_screen(write_run(tmp_path / "run"), tmp_path / "screen.webp")
    drawn = (tmp_path / "screen.webp").read_bytes()
    assert (drawn[:4], drawn[8:12]) == (b"RIFF", b"WEBP")
    assert 10_000 < len(drawn) < 120_000


def test_the_readme_shows_the_pictures_that_the_script_writes():
    readme, script = (ROOT / "README.md").read_text(), (ROOT / "scripts" / "update_readme").read_text()
    for name in ("demo.svg", "report.webp"):
        assert f"(scripts/{name})" in readme
        assert f'"{name}"' in script
        assert (ROOT / "scripts" / name).is_file()


def test_a_section_replaces_what_stands_between_its_marks():
    script = as_module("update_readme")
    text = "a\n<!-- novel: written by scripts/update_readme -->\nold\n<!-- end of novel -->\nb\n"
    new = script.replaced(text, "novel", ["x", "y"])
    assert new == text.replace("old", "x\ny")


@pytest.mark.parametrize("kind", ["demo", "novel", "compare"])
def test_the_readme_has_the_marks_of_a_section(kind):
    script = as_module("update_readme")
    script.replaced((ROOT / "README.md").read_text(), kind, [])


def test_the_section_of_a_novel(tmp_path):
    script = as_module("update_readme")
    measured = dict.fromkeys(script.NOVEL, 0.5) | {"perplexity": 21.46}
    models = dict.fromkeys(script.NOVEL_MODELS, measured) | {"paper": {**measured, "familiarity": 0.00123}}
    item = {"prompt": "She lived at", "completions": {"base": "the old\nhouse. " * 20, "unlearned": "home."}}
    results = {
        "models": models,
        "completions": [item] * 7,
        "hardware": {"cores": 2, "processor": "A processor"},
        "seconds": {"total": 5400.0},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    lines = script.novel(path)
    assert lines[5] == "| paper | 0.0012 | 0.500 | 0.500 | 0.500 | 0.500 | 21.5 |"
    assert lines.count("She lived at ...") == 2
    assert all(len(line) <= script.WIDTH + 14 for line in lines if line.startswith("  base"))
    assert lines[-1] == "Measured on 2 cores of A processor."


def test_the_section_of_a_comparison(tmp_path):
    script = as_module("update_readme")
    summary = {measure: {"mean": 0.25, "std": 0.1} for measure in (*script.COMPARED, "perplexity", "int4")}
    result = {
        "base": {**summary, "ks_p": [1e-5, 1e-9]},
        "control": {**summary, "margin": None, "ks_p": None},
        "methods": {"npo": {**summary, "ks_p": [0.2, 0.01]}},
        "recommended": "npo",
    }
    path = tmp_path / "compare.json"
    path.write_text(json.dumps(result))
    lines = script.compare(path)
    assert lines[2:5] == [
        "| base | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 | 0 of 2 |",
        "| control | 0.250 | 0.250 | 0.250 |  | 0.250 |  |",
        "| **npo** | 0.250 | 0.250 | 0.250 | 0.250 | 0.250 | 1 of 2 |",
    ]
