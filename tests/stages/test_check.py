"""Checks at the start of a chain; most messages are tested with the command line."""

import json
import shutil

import pytest

from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.stages.check import check, check_select
from jaxforget.stages.run import Run
from tests.tiny_run import settings

NONE, FOUND, COUNTED = ({"path": None, "extractor": extractor} for extractor in ("none", "models", "statistics"))
QUESTION = [{"prompt": "Where did", "answer": " Jon"}]


def config(select: str, **evals: str):
    return config_from({"forget": {"select": select}, "evals": evals})


@pytest.fixture
def probes(tmp_path) -> str:
    """A file with questions of one kind only."""
    path = tmp_path / "probes.json"
    path.write_text(json.dumps({"familiarity": QUESTION, "retained": []}))
    return str(path)


def test_what_is_measured_may_choose(probes):
    for good in (config("last"), config("familiarity", probes=probes), config("perplexity", heldout="text")):
        check_select(good)


@pytest.mark.parametrize("select", ["familiarity", "retained", "perplexity"])
def test_what_nothing_measures_may_not(select):
    option = "evals.heldout" if select == "perplexity" else "evals.probes"
    with pytest.raises(UserError, match=f"^forget.select={select}: nothing measures it.*{option}") as error:
        check_select(config(select))
    assert "\n" not in str(error.value)


def test_a_file_without_such_questions(probes):
    with pytest.raises(UserError, match=r"forget.select=retained: .*probes\.json has no such list, or an empty one"):
        check_select(config("retained", probes=probes))


def told(world, tmp_path, stages, **sections) -> str | None:
    """The fault that the stages are told of, or None."""
    try:
        check(Run(config_from(settings(world, tmp_path / "run", **sections))), stages)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    ("sections", "stages", "untroubled"),
    [
        ({"anchors": NONE}, ("anchors", "forget", "eval"), ("prepare", "reinforce", "export", "report")),
        ({"anchors": FOUND, "corpus": {"path": None}}, ("anchors", "prepare", "reinforce"), ("forget", "eval")),
        ({"anchors": FOUND, "reinforce": {"batch": 9}}, ("anchors", "reinforce"), ("prepare", "forget", "eval")),
        ({"anchors": COUNTED, "model": {"folder": None}}, ("prepare", "reinforce", "forget"), ("anchors", "report")),
        ({"model": {"folder": None}}, ("prepare", "reinforce", "forget", "eval", "export"), ("anchors", "report")),
        ({"corpus": {"path": "/nowhere"}}, ("prepare",), ("anchors", "reinforce", "forget", "eval", "export")),
        ({"corpus": {"path": None}}, ("prepare",), ("anchors", "reinforce", "forget", "eval", "export", "report")),
        ({"evals": {"probes": "/nowhere"}}, ("forget", "eval"), ("prepare", "reinforce", "export", "report")),
        ({"forget": {"batch": 9}}, ("forget",), ("prepare", "reinforce", "eval", "export", "report")),
        ({"reinforce": {"batch": 9}}, ("reinforce",), ("prepare", "forget", "eval", "export", "report")),
        ({"model": {"control": "/nowhere"}}, ("forget", "eval"), ("prepare", "reinforce", "export", "report")),
        ({"blocks": {"length": 500}}, ("prepare", "reinforce", "forget", "eval", "export"), ("anchors", "report")),
    ],
)
def test_a_stage_is_told_of_what_it_would_use(sections, stages, untroubled, tiny_world, tmp_path):
    for stage in stages:
        assert told(tiny_world, tmp_path, (stage,), **sections) is not None, stage
    for stage in untroubled:
        assert told(tiny_world, tmp_path, (stage,), **sections) is None, stage
    assert not (tmp_path / "run").exists(), "looking makes nothing"


def test_a_reinforced_model_that_is_given_needs_no_batch(tiny_world, tmp_path):
    given = {"reinforce": {"batch": 9}, "model": {"reinforced": str(tiny_world / "control")}}
    assert told(tiny_world, tmp_path, ("reinforce",), **given) is None


def test_retain_rows_count_in_a_step(tiny_world, tmp_path):
    retain = {"retain": {"path": str(tiny_world / "retain"), "rows": 5, "weight": 1.0}}
    assert "8 blocks and 5 retain rows" in told(tiny_world, tmp_path, ("forget",), **retain)
    assert told(tiny_world, tmp_path, ("forget",), **retain, forget={"batch": 11}) is None
    assert told(tiny_world, tmp_path, ("reinforce",), **retain) is None


def test_control_may_end_its_texts_otherwise(tiny_world, tmp_path):
    """Another eos or another length of context leaves the forward pass the same; another base frequency does not."""
    folder = shutil.copytree(tiny_world / "control", tmp_path / "control")
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"max_position_embeddings": 128', '"max_position_embeddings": 256'))
    assert told(tiny_world, tmp_path, ("eval",), model={"control": str(folder)}) is None
    path.write_text(path.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-03'))
    assert "describes another model" in told(tiny_world, tmp_path, ("eval",), model={"control": str(folder)})


def test_text_that_is_to_be_forgotten_and_kept_is_told(tiny_world, tmp_path, capsys):
    """By content: a copy in another folder and in another form overlaps as the folder itself does."""
    text = (tiny_world / "target" / "0.txt").read_text()
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "records.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "Another text."}))
    for place in (copy, tiny_world / "target"):
        assert told(tiny_world, tmp_path, ("prepare",), retain={"path": str(place), "rows": 1, "weight": 1.0}) is None
        said = capsys.readouterr().err
        assert f"warning: retain.path={place} holds" in said
        assert f"corpus.path={tiny_world / 'target'}" in said
    assert (
        told(tiny_world, tmp_path, ("prepare",), retain={"path": str(tiny_world / "retain"), "rows": 1, "weight": 1.0})
        is None
    )
    assert "warning" not in capsys.readouterr().err


def test_what_a_folder_of_texts_holds_beside_is_told(tiny_world, tmp_path, capsys):
    shutil.copytree(tiny_world / "target", tmp_path / "texts")
    (tmp_path / "texts" / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    assert told(tiny_world, tmp_path, ("prepare",), corpus={"path": str(tmp_path / "texts")}) is None
    assert "texts: not read: links that lead nowhere or in a circle: gone.txt" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["corpus", "anchors", "retain"])
def test_a_circle_of_links_is_told_in_a_line(option, tiny_world, tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    given = {option: {"path": str(tmp_path / "circle"), **({"rows": 1, "weight": 1.0} if option == "retain" else {})}}
    fault = told(tiny_world, tmp_path, ("anchors", "prepare"), **given)
    assert fault.startswith(f"{tmp_path / 'circle'}: ")
    assert "\n" not in fault


@pytest.mark.parametrize("name", ["base", "control", "reinforced"])
def test_a_model_without_tokenizer_is_found_before_anything_runs(name, tiny_world, tmp_path):
    folder = shutil.copytree(tiny_world / ("base" if name == "reinforced" else name), tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    fault = told(tiny_world, tmp_path, {"forget", "eval"}, model={{"base": "folder"}.get(name, name): str(folder)})
    # The reinforced model is only ever given ids of base's tokenizer.
    assert fault is None if name == "reinforced" else f"{folder}: no tokenizer.json" in fault


LONG = "Mary met " * 80


@pytest.mark.parametrize(
    ("option", "content", "says"),
    [
        ("probes", {"retained": [{"prompt": "Mary", "answer": " met"}, {"prompt": LONG, "answer": " John"}]},
         "retained[1]: its"),
        ("prompts", {"dynamics": ["Mary", LONG]}, "dynamics[1]: its"),
        ("prompts", {"completions": [LONG]}, "completions[0]: its"),
        ("choices", [{"context": LONG, "choices": ["a", "b"], "answer": 0}], "item 0: its"),
    ],
)  # fmt: skip
def test_a_question_longer_than_the_positions_is_told_before_training(option, content, says, tiny_world, tmp_path):
    """Before, a longer one was scored beyond the model's positions, with a probability of 0."""
    path = tmp_path / f"{option}.json"
    path.write_text(json.dumps(content))
    line = told(tiny_world, tmp_path, ("forget",), evals={option: str(path)})
    assert line.startswith(f"{path}: {says}")
    assert line.endswith(f"are beyond the 128 positions of {tiny_world / 'base'}; shorten it")


def test_completions_beyond_the_positions_name_both_remedies(tiny_world, tmp_path):
    line = told(tiny_world, tmp_path, ("forget",), evals={"completion_tokens": 128})
    assert "prompts.json: completions[0]: its" in line
    assert "128 new ones (evals.completion_tokens) are beyond the 128 positions" in line
    assert line.endswith("; shorten it, or lower evals.completion_tokens")
