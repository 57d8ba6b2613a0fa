"""`jaxforget report`: one run, several runs, figures, another file, a price."""

import importlib.util
import shutil

import pytest

from tests.cli.saying import fault, status_of
from tests.report.synthetic import write_run


def test_two_runs_on_one_page_and_figures_beside_it(capsys, copied, tmp_path):
    other = write_run(tmp_path / "npo")
    assert status_of("report", copied, other, "--figures") == 0
    assert capsys.readouterr().out == f"{copied / 'comparison.html'}\n"
    page = (copied / "comparison.html").read_text()
    assert "npo: unlearned" in page
    assert "moved: unlearned" in page
    figures = list((copied / "figures").iterdir())
    assert len(figures) > 3
    assert {path.suffix for path in figures} == {".svg", ".png"}


def test_the_page_goes_where_the_user_wants_it(capsys, copied, tmp_path):
    before = (copied / "report.html").read_bytes()
    assert status_of("report", copied, "--out", tmp_path / "mine.html") == 0
    assert (tmp_path / "mine.html").is_file()
    assert (copied / "report.html").read_bytes() == before


def test_a_price_is_shown_on_the_page_and_a_wrong_one_refused(capsys, copied):
    assert status_of("report", copied, "--price", "2.5") == 0
    page = (copied / "report.html").read_text()
    assert "2.5 dollars a device and hour" in page
    assert "Peak memory is that of the fullest device" in page
    capsys.readouterr()
    assert "--price -1: give a price of at least 0" in fault(capsys, "report", copied, "--price", "-1")


def test_figures_without_the_renderer_of_png_name_the_remedy(capsys, copied, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "resvg_py" else find(name, *more)
    )
    assert status_of("report", copied, "--figures") == 0
    assert "pip install resvg-py writes them as PNG" in capsys.readouterr().err
    assert {path.suffix for path in (copied / "figures").iterdir()} == {".svg"}


def test_what_is_no_run_is_named(capsys, copied):
    assert "/nowhere: no such run" in fault(capsys, "report", copied, "/nowhere")
    assert "seed takes" in fault(capsys, "report", copied, "seed=x")


@pytest.mark.parametrize("name", ["config.yaml", "manifest.json", "notes.html", "figures/curves-1.png", ""])
def test_a_file_that_is_no_page_is_not_replaced(capsys, copied, name):
    """A page over the configuration or the manifest of a run would be the end of the run."""
    (copied / "notes.html").write_text("<!doctype html><title>my notes</title>")
    (copied / "figures").mkdir()
    (copied / "figures/curves-1.png").write_text("mine")
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    words = ("--figures",) if "figures" in name else ("--out", copied / name if name else "")
    line = fault(capsys, "report", copied, *words)
    assert f"{copied / name if name else '.'}: is no " in line
    assert {path: path.read_bytes() for path in before} == before


def test_a_page_and_its_figures_are_replaced_by_newer_ones(copied, tmp_path):
    for _ in range(2):
        assert status_of("report", copied, "--figures", "--out", tmp_path / "mine.html") == 0


def test_a_folder_that_is_no_run_is_refused_beside_one_that_is(capsys, copied, tiny_world):
    assert f"{tiny_world}: holds no config.yaml" in fault(capsys, "report", copied, tiny_world)
    assert not (copied / "comparison.html").exists()


def test_a_run_without_measures_says_how_to_measure(capsys, copied):
    shutil.rmtree(copied / "evals")
    assert status_of("report", copied) == 0
    assert f"jaxforget: {copied}: nothing is measured yet; jaxforget eval {copied}" in capsys.readouterr().err
