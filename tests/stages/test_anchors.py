"""Stage `anchors` with every extractor: statistics, models, a fake endpoint, and a local chat model."""

import json
import shutil

import pytest

from jaxforget.anchors import local_model
from jaxforget.config import config_from
from jaxforget.corpus.dictionary import Anchors
from jaxforget.errors import UserError
from jaxforget.pipeline import preview_anchors
from jaxforget.stages.anchors import _progress, anchors
from jaxforget.stages.run import Run
from tests.fake_endpoint import serve
from tests.tiny_run import HEROES, PLACES, settings

__all__ = ["serve"]
SAID = json.dumps(
    {
        "expressions": [
            {"expression": "Zorvath", "kind": "person", "alternatives": ["Martin", "Paul"]},
            {"expression": "Vex Hollow", "kind": "place", "alternatives": ["Newport"]},
            {"expression": "Gandalf", "kind": "person", "alternatives": ["Robert"]},
        ]
    }
)


def run_of(world, folder, **more) -> Run:
    given = {"path": None, **more}
    model = {"reinforced": str(world / "control")}
    return Run(config_from(settings(world, folder, anchors=given, model=model)))


@pytest.mark.parametrize("extractor", ["statistics", "models"])
def test_names_of_the_text_are_found(extractor, tiny_world, tmp_path, capsys):
    run = run_of(tiny_world, tmp_path, extractor=extractor)
    anchors(run)
    found = Anchors.load(run.anchors, keep_all=True)
    assert set(found.entries) == {*HEROES, *PLACES}
    for evidence in found.evidence.values():
        assert ("gain" in evidence) == (extractor == "models")
    said = capsys.readouterr().err
    assert f"finding anchors in the text ({extractor})" in said
    assert f"review them: jaxforget anchors review {tmp_path}" in said
    assert "warning: only" in said


def asking_run(world, folder, extractor="endpoint", *, url="http://127.0.0.1:9/v1", **more) -> Run:
    given = {"path": None, "extractor": extractor, "calls": 3, **more}
    values = settings(world, folder, anchors=given, endpoint={"base_url": url, "model": "m", "retries": 0})
    return Run(config_from(values))


def test_answers_become_the_dictionary_and_are_asked_once(serve, tiny_world, tmp_path, capsys):
    fake = serve(lambda *_: SAID)
    run = asking_run(tiny_world, tmp_path, url=fake.url)
    anchors(run)
    found = Anchors.load(run.anchors, keep_all=True)
    assert found.entries["Zorvath"] == ("Martin", "Paul")
    assert set(found.entries) <= {"Zorvath", "Vex Hollow"}
    assert found.evidence["Zorvath"]["kind"] == "person"
    assert len(fake.requests) == 3
    assert "Nobody in" in fake.requests[0]["messages"][1]["content"]
    said = capsys.readouterr().err
    assert "finding anchors in the text (endpoint)" in said
    assert "3 calls, 30 + 15 tokens" in said
    assert "expressions omitted: their passage does not contain them" in said
    anchors(run)
    assert len(fake.requests) == 3, "a second run asks nothing that is answered"
    anchors(asking_run(tiny_world, tmp_path, url=fake.url, calls=5))
    assert len(fake.requests) == 5, "more calls ask only what is new"


def test_a_broken_run_goes_on(serve, tiny_world, tmp_path):
    fake = serve(lambda _, number: SAID if number < 2 else 401)
    run = asking_run(tiny_world, tmp_path, url=fake.url)
    with pytest.raises(UserError, match="key is refused.*the same command asks only for the rest"):
        anchors(run)
    assert not run.anchors.exists()
    kept = len(run.answers.read_text().splitlines())
    fake.reply = lambda *_: SAID
    before = len(fake.requests)
    anchors(run)
    assert len(fake.requests) - before == 3 - kept


def test_a_preview_asks_nothing(serve, tiny_world, tmp_path):
    fake = serve(lambda *_: SAID)
    run = asking_run(tiny_world, tmp_path, url=fake.url)
    told = preview_anchors(run.config)
    assert not fake.requests
    assert "3 questions, 0 answered in" in told
    assert "--- user\nBelow is a passage" in told
    assert '"expressions"' in told, "the schema is part of the prompt"


def test_a_preview_needs_no_key(tiny_world, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    run = asking_run(tiny_world, tmp_path, url="https://api.openai.com/v1")
    assert "3 questions, 0 answered in" in preview_anchors(run.config)
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        anchors(run)


def test_answers_that_fit_nothing(serve, tiny_world, tmp_path):
    stranger = '{"expressions": [{"expression": "Gandalf", "alternatives": ["Bob"]}]}'
    run = asking_run(tiny_world, tmp_path, url=serve(lambda *_: stranger).url)
    with pytest.raises(UserError, match="name no expression that the text contains; look at .*anchors.answers.jsonl"):
        anchors(run)


def test_a_local_model_is_asked_alike(tiny_world, tmp_path, monkeypatch):
    asked = []

    def completes(model, prompts, new_tokens, **_):
        asked.extend(prompts)
        return ["nonsense" if len(asked) == 1 else SAID for _ in prompts]

    monkeypatch.setattr(local_model, "complete", completes)
    run = asking_run(tiny_world, tmp_path, "local", model=str(tiny_world / "base"))
    anchors(run)
    assert Anchors.load(run.anchors).entries["Zorvath"] == ("Martin", "Paul")
    assert len(asked) == 3
    assert asked[0].endswith("Answer:\n"), "a model without a chat template gets plain text"
    assert "JSON schema" in asked[0]
    anchors(run)
    assert len(asked) == 3, "answers are kept"


def test_other_weights_in_the_folder_of_a_local_model_are_asked_anew(tiny_world, tmp_path, monkeypatch):
    asked = []

    def completes(model, prompts, *_, **__):
        asked.extend(prompts)
        return [SAID] * len(prompts)

    monkeypatch.setattr(local_model, "complete", completes)
    chat = shutil.copytree(tiny_world / "base", tmp_path / "chat")
    anchors(asking_run(tiny_world, tmp_path, "local", model=str(chat)))
    shutil.copyfile(tiny_world / "control" / "model.safetensors", chat / "model.safetensors")
    anchors(asking_run(tiny_world, tmp_path, "local", model=str(chat)))
    moved = chat.rename(tmp_path / "moved")
    anchors(asking_run(tiny_world, tmp_path, "local", model=str(moved)))
    assert len(asked) == 6, "each model is asked once, wherever it is"


def test_a_model_that_talks_nonsense_is_told(tiny_world, tmp_path, monkeypatch):
    run = asking_run(tiny_world, tmp_path, "local", model=str(tiny_world / "base"))
    monkeypatch.setattr(local_model, "complete", lambda model, prompts, *_, **__: ["I cannot."] * len(prompts))
    with pytest.raises(UserError, match="3 of 3 answers are unusable, the first because it is not JSON"):
        anchors(run)
    with pytest.raises(UserError, match=r"anchors\.model is not set"):
        anchors(asking_run(tiny_world, tmp_path, "local"))


def test_passages_beyond_the_models_positions_are_told(tiny_world, tmp_path):
    """The local chat model without a patch; the tiny model has 128 positions."""
    run = asking_run(tiny_world, tmp_path, "local", model=str(tiny_world / "base"))
    with pytest.raises(UserError, match="are beyond the 128 positions"):
        anchors(run)


def test_a_dictionary_that_a_person_may_have_edited_is_kept(tiny_world, tmp_path, capsys):
    def write(**more):
        (tmp_path / "given.json").write_text(json.dumps({"Zorvath": ["Martin"], **more}))
        anchors(
            Run(config_from(settings(tiny_world, tmp_path / "run", anchors={"path": str(tmp_path / "given.json")})))
        )
        return sorted(path.name for path in (tmp_path / "run").glob("anchors*.json"))

    assert write() == ["anchors.json"]
    assert write() == ["anchors.json"], "the same dictionary needs no copy"
    edited = (tmp_path / "run" / "anchors.json").read_bytes() + b" "
    (tmp_path / "run" / "anchors.json").write_bytes(edited)
    assert write(Quillon=["Anna"]) == ["anchors.former-1.json", "anchors.json"]
    assert "the previous dictionary differs and is kept as anchors.former-1.json" in capsys.readouterr().err
    assert (tmp_path / "run" / "anchors.former-1.json").read_bytes() == edited
    assert len(write(Brindle=["Tom"])) == 3


def test_progress_tells_the_time_left_now_and_then(monkeypatch):
    seconds = iter([0.0, 10.0, 40.0, 60.0, 80.0, 120.0])
    monkeypatch.setattr("jaxforget.stages.anchors.time.monotonic", lambda: next(seconds))
    said = []
    told = _progress(said.append)
    for done in range(1, 6):
        told(done, 5)
    assert said == [
        "  2 of 5 expressions read by the models, 60 s left",
        "  4 of 5 expressions read by the models, 20 s left",
    ]
