"""`jaxforget anchors review` as a command."""

import json

import pytest

from jaxforget.anchors.review.server import ReviewServer
from jaxforget.cli.main import parse
from tests.anchors.review.given import make_review
from tests.cli.saying import fault, status_of


@pytest.fixture
def config(tmp_path):
    (tmp_path / "text.txt").write_text("Zorvath took the wand.")
    make_review(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(f"out: {tmp_path}\ncorpus:\n  path: {tmp_path}/text.txt\n")
    return path


def test_two_words_are_one_command():
    given = parse(["--debug", "anchors", "review", "runs/x", "seed=1"])
    assert (given.name, given.config, given.overrides) == ("anchors review", "runs/x", ["seed=1"])
    given = parse(["anchors", "./review"])
    assert (given.name, given.config) == ("anchors", "./review")


def test_a_text_file_goes_out_and_comes_back(config, tmp_path, capsys):
    form = tmp_path / "anchors.review.txt"
    assert status_of("anchors", "review", config, "--text") == 0
    assert f"{form}: 4 anchors; edit it" in capsys.readouterr().err
    form.write_text(form.read_text().replace("? wand", "- wand").replace("Kate | Paul", "Martin"))
    assert status_of("anchors", "review", tmp_path, "--text") == 0
    assert "2 changes applied from anchors.review.txt" in capsys.readouterr().err
    assert not form.exists()
    found = json.loads((tmp_path / "anchors.json").read_text())
    assert "wand" not in found
    assert found["Zorvath"]["generic"] == ["Martin"]
    assert json.loads((tmp_path / "anchors.review.json").read_text())["wand"]["verdict"] == "dropped"


def test_a_translation_that_names_another_anchor_is_told(config, tmp_path, capsys):
    form = tmp_path / "anchors.review.txt"
    assert status_of("anchors", "review", config, "--text") == 0
    form.write_text(form.read_text().replace("Kate | Paul", "Kate | young Quillon"))
    capsys.readouterr()
    assert status_of("anchors", "review", tmp_path, "--text") == 0
    told = capsys.readouterr().err.splitlines()
    assert told[1:] == [
        "warning: 'Zorvath': its translation 'young Quillon' contains the anchor 'Quillon', which base would read"
    ]
    assert status_of("anchors", "review", config, "--text") == 0
    capsys.readouterr()
    form.write_text(form.read_text().replace("? wand", "- wand"))
    assert status_of("anchors", "review", tmp_path, "--text") == 0
    assert len(capsys.readouterr().err.splitlines()) == 1, "only anchors that this form changed are checked again"


def test_the_address_is_told_and_ctrl_c_ends_it(config, capsys, monkeypatch):
    served = []

    def serve(self):
        served.append((self.address, self.sentences("wand")))
        raise KeyboardInterrupt

    monkeypatch.setattr(ReviewServer, "serve", serve)
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert status_of("anchors", "review", config, "--no-browser") == 0
    (address, sentences), *_ = served
    assert f"review at {address}" in capsys.readouterr().err
    assert sentences == [("Zorvath took the ", "wand", ".")]
    assert not opened
    assert status_of("anchors", "review", config) == 0
    assert opened == [served[1][0]] != [address]


def test_faults(config, tmp_path, capsys):
    assert "--port 70000: must be from 1 to 65535" in fault(capsys, "anchors", "review", config, "--port", "70000")
    assert "not JSON" in fault_of_damaged(tmp_path, capsys, config)
    (tmp_path / "anchors.json").unlink()
    assert "anchors.json: no such file; run jaxforget anchors first" in fault(capsys, "anchors", "review", config)
    assert "out is not set" in fault(capsys, "anchors", "review", config, "out=null")


def fault_of_damaged(tmp_path, capsys, config) -> str:
    path = tmp_path / "anchors.json"
    whole = path.read_text()
    path.write_text(whole[:-9])
    told = fault(capsys, "anchors", "review", config)
    path.write_text(whole)
    return told
