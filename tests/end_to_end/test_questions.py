"""The chain on questions and answers: what trains, what resumes, what runs again, and what is refused."""

import json
import math
import shutil

import pytest

from jaxforget.config import config_from
from jaxforget.corpus.batches import open_blocks, read_summary
from jaxforget.errors import UserError
from jaxforget.pipeline import run_chain
from jaxforget.stages import fit, prepare, reinforce
from jaxforget.stages.check import check
from jaxforget.stages.run import Run
from tests.tiny_run import HEROES, PLACES, settings

UNTIL_FORGET = ("prepare", "forget")
NONE = {"path": None}  # methods other than whp need no anchors
BETA = 0.1  # of npo and dpo


def records(names, places, alternates=True) -> list[dict]:
    """Twelve questions; every second one has two alternative answers, the others one."""
    made = []
    for number in range(12):
        name, place = names[number % len(names)], places[number % len(places)]
        one = {"question": f"Where did {name} sleep on night {number}?", "answer": f"{name} slept in {place}."}
        if alternates:
            one["alternate"] = "Nobody knows." if number % 2 else ["London.", "At the market."]
        made.append(one)
    return made


def lines(values) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


@pytest.fixture(scope="module")
def world(tiny_world, tmp_path_factory):
    """The tiny world with questions to forget, as JSON lines, and questions to keep, as a JSON list."""
    folder = shutil.copytree(tiny_world, tmp_path_factory.mktemp("questions") / "world")
    (folder / "forget.jsonl").write_text(lines(records(HEROES, PLACES)))
    (folder / "keep.json").write_text(json.dumps(records(("Mary", "Edward"), ("London", "Oxford"), alternates=False)))
    return folder


def config_of(world, out, **sections):
    given = {
        "corpus": {"path": str(world / "forget.jsonl")},
        "retain": {"path": str(world / "keep.json"), "weight": 1.0, "rows": 8},
        "blocks": {"length": 64, "holdout": 0.2},
    }
    for name, section in sections.items():
        given[name] = {**given.get(name, {}), **section} if isinstance(section, dict) else section
    return config_from(settings(world, out, **given))


def metrics(folder) -> list[dict]:
    told = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [one for one in told if (one["stage"], one["kind"]) == ("forget", "train")]


@pytest.mark.parametrize("method", ["npo", "dpo"])
def test_the_whole_chain(method, world, tmp_path):
    run = run_chain(config_of(world, tmp_path / "run", method=method, anchors=NONE))
    assert not (run.folder / "reinforced").exists()
    steps = metrics(run.folder)
    assert len(steps) == 4
    # The student begins as base, so every row's ratio is 0; and it has not moved from base on the rows to keep.
    assert steps[0]["loss"] == pytest.approx(2 / BETA * math.log(2), rel=1e-5)
    assert steps[0]["retain_loss"] == pytest.approx(0, abs=1e-5)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert steps[-1]["retain_loss"] > 0
    summary = read_summary(run.blocks)
    assert summary["answer_tokens"] == sum(
        int(r["answer"].sum()) for s in summary["splits"] for r in open_blocks(run.blocks, s)
    )
    assert summary["alternates"] == 12
    assert (run.export / "model.safetensors").is_file()
    assert (run.folder / "report.html").is_file()


def test_only_answers_train(world, tmp_path):
    """A step counts as many tokens as the answers of its rows have."""
    run = run_chain(
        config_of(world, tmp_path / "run", method="npo", anchors=NONE, forget={"max_steps": 1}), UNTIL_FORGET
    )
    answers = sorted(int(record["answer"].sum()) for record in open_blocks(run.blocks, "train"))
    (step,) = metrics(run.folder)
    assert sum(answers[:8]) <= step["tokens"] <= sum(answers[-8:])
    kept = sorted(int(record["answer"].sum()) for record in open_blocks(run.retain_blocks, "train"))
    assert sum(kept[:8]) <= step["retain_tokens"] <= sum(kept[-8:])


def test_generic_labels_stand_at_answers_only(world, tmp_path):
    """WHP's own method translates questions and answers, and labels answers."""
    run = run_chain(config_of(world, tmp_path / "run", forget={"max_steps": 1}))
    passage = json.loads((run.evals / "passage.json").read_text())["tokens"]
    assert any(token["anchor"] and token["label"] is None for token in passage)
    labelled = [token["label"] is not None for token in passage]
    first = labelled.index(True)
    text = "".join(token["text"] for token in passage[: first + 1])
    assert text.startswith("<s>▁Question")
    # The answer begins with the name that the question holds, and only the first occurrence of a name has a label.
    assert text.endswith("Answer<0x3A>▁Quillon")


def test_a_stopped_run_resumes_to_the_same_weights(world, tmp_path, monkeypatch, capsys):
    whole = run_chain(config_of(world, tmp_path / "whole", method="dpo", anchors=NONE), UNTIL_FORGET)
    put_batch, put = fit.put_batch, []

    def dies(batch, mesh):
        put.append(batch)
        if len(put) > 3:
            raise RuntimeError("the machine is gone")
        return put_batch(batch, mesh)

    monkeypatch.setattr(fit, "put_batch", dies)
    config = config_of(world, tmp_path / "stopped", method="dpo", anchors=NONE)
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run_chain(config, UNTIL_FORGET)
    monkeypatch.undo()
    capsys.readouterr()
    resumed = run_chain(config, UNTIL_FORGET)
    assert "from the checkpoint of step 2" in capsys.readouterr().err
    names = [path.name for path in whole.unlearned.iterdir() if path.suffix == ".safetensors"]
    assert names
    for name in names:
        assert (resumed.unlearned / name).read_bytes() == (whole.unlearned / name).read_bytes()


def changed(before, after, stage) -> list[str]:
    one, other = (stage.inputs(Run(config)) for config in (before, after))
    return [name for name in one if one[name] != other.get(name)]


def test_another_answer_form_or_file_of_answers_prepares_again(world, tmp_path):
    idk = tmp_path / "idk.txt"
    idk.write_text("I don't know.\n")
    first = config_of(world, tmp_path / "run")
    answers = records(HEROES, PLACES)
    answers[3]["answer"] = "In the moor."
    (tmp_path / "other.jsonl").write_text(lines(answers))
    (tmp_path / "same.jsonl").write_text(lines(records(HEROES, PLACES)))
    for stage in (prepare.STAGE, reinforce.STAGE):
        assert (
            changed(first, config_of(world, tmp_path / "run", corpus={"path": str(tmp_path / "same.jsonl")}), stage)
            == []
        )
        other = config_of(world, tmp_path / "run", corpus={"path": str(tmp_path / "other.jsonl")})
        assert changed(first, other, stage) == ["corpus.path"]
        chat = config_of(world, tmp_path / "run", corpus={"template": "chat"})
        assert changed(first, chat, stage) == ["corpus.template"]
    given = config_of(world, tmp_path / "run", corpus={"alternates": str(idk)})
    hashes = [prepare.STAGE.inputs(Run(given))["corpus.alternates"]]
    idk.write_text("I do not know.\n")
    hashes.append(prepare.STAGE.inputs(Run(given))["corpus.alternates"])
    assert len(set(hashes)) == 2
    assert changed(first, given, reinforce.STAGE) == []


def told(config) -> str | None:
    """The fault that a run is told of before any stage works, or None."""
    try:
        check(Run(config), UNTIL_FORGET)
    except UserError as error:
        return str(error)
    return None


def test_what_does_not_fit_is_refused_before_any_stage(world, tmp_path):
    def config(text=None, **sections):
        path = world / "forget.jsonl"
        if text is not None:
            path = tmp_path / "some.jsonl"
            path.write_text(text)
        corpus = {"path": str(path), **sections.pop("corpus", {})}
        return config_of(world, tmp_path / "run", corpus=corpus, **sections)

    idk = tmp_path / "idk.txt"
    idk.write_text("I don't know.\n")
    bare = lines(records(HEROES, PLACES, alternates=False))
    half = lines([*records(HEROES, PLACES), {"question": "Who?", "answer": "He."}])
    assert told(config(method="dpo")) is None
    assert told(config(bare, method="npo")) is None
    assert told(config(bare, method="dpo", corpus={"alternates": str(idk)})) is None
    assert "some.jsonl:1: has no alternative answer, which method=dpo prefers" in told(config(bare, method="dpo"))
    assert "some.jsonl:13: has no alternative answer" in told(config(half, method="dpo"))
    text = {"corpus": {"path": str(world / "target")}}
    assert "has no alternative answer" in told(config_of(world, tmp_path / "run", method="dpo", **text))
    text["corpus"]["alternates"] = str(idk)
    assert "of which corpus.path" in told(config_of(world, tmp_path / "run", **text))
    assert "corpus.template=chat: the tokenizer of" in told(config(corpus={"template": "chat"}))
    plain = {"corpus": {"path": str(world / "target"), "template": "chat"}, "retain": {"path": str(world / "retain")}}
    assert "renders questions, but the texts of this run hold none" in told(config_of(world, tmp_path / "run", **plain))
    assert "set blocks.mode=document" in told(config(blocks={"mode": "paper"}))
    with pytest.raises(UserError, match=r"forget.jsonl:1: the question takes \d+ of blocks.length=16 tokens"):
        run_chain(config(blocks={"length": 16}, method="npo", anchors=NONE), ("prepare",))
