"""`scripts/update_readme`: the picture of the page's first screen."""

from pathlib import Path

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
