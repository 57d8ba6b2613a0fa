"""The completion suite on a finished run: offline, and by an endpoint that answers, breaks, and is asked again."""

import json
import shutil

import pytest

from jaxforget.config import load_config
from jaxforget.errors import UserError
from jaxforget.evals.catalogue import choose
from jaxforget.evals.completion_prompts import Prompt, load_completion_prompts
from jaxforget.evals.graders import OFFLINE
from jaxforget.lm.completion import complete
from jaxforget.lm.model import load
from jaxforget.stages.measure import measure_suites, preview_suites
from jaxforget.stages.run import Run
from tests.fake_endpoint import serve

__all__ = ["serve"]
COMPLETION = choose("completion")
MODELS = ("base", "reinforced", "unlearned", "control")


def completion_folder(run: Run):
    return run.evals / "completion"


def prompts_of(run: Run) -> list[Prompt]:
    items = json.loads((completion_folder(run) / "prompts.json").read_text())["prompts"]
    return [Prompt(item["prompt"], tuple(item["references"]), item["subtlety"]) for item in items]


@pytest.fixture
def finished(tiny_run, tiny_world, tmp_path, monkeypatch):
    """(words) -> a run on a copy of a finished one, with a control; `said` is what it says."""
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    said: list[str] = []
    monkeypatch.setattr(Run, "say", lambda self, text, **_: said.append(text))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    def make(*words: str) -> Run:
        control = f"model.control={tiny_world / 'control'}"
        config = load_config(copy, [f"out={copy}", control, "evals.completion_count=6", *words])
        return Run(config)

    make.said = said
    return make


def rows_of(run: Run) -> dict[tuple[str, str], float]:
    rows = json.loads((run.evals / "summary.json").read_text())["rows"]
    return {(row["metric"], row["model"]): row["value"] for row in rows if "/ (5 N)" not in row["convention"]}


def test_offline_prompts_completions_and_grades_are_kept_and_add_up(finished):
    run = finished()
    measure_suites(run, COMPLETION)
    rows = rows_of(run)
    prompts = prompts_of(run)
    assert len(prompts) == 6
    model = load(run.unlearned, "float32", run.mesh)
    texts = complete(model, [prompt.prompt for prompt in prompts], 8)
    for name in MODELS:
        told = json.loads((completion_folder(run) / f"{name}.json").read_text())
        assert told["grader"]["name"] == OFFLINE
        grades = [item["grade"] for item in told["prompts"]]
        for grade in range(4):
            assert rows[f"completion_n{grade}", name] == grades.count(grade)
        points = 5 * grades.count(3) + grades.count(2)
        assert rows["familiarity_completion", name] == pytest.approx(points / 6)
        assert [item["prompt"] for item in told["prompts"]] == [prompt.prompt for prompt in prompts]
        if name == "unlearned":
            assert [item["completion"] for item in told["prompts"]] == texts
    # The same prompts from a file are the same evaluation.
    file = run.folder / "mine.json"
    file.write_text(json.dumps(json.loads((completion_folder(run) / "prompts.json").read_text())["prompts"]))
    assert load_completion_prompts(file) == prompts
    again = finished(f"evals.completion_prompts={file}")
    measure_suites(again, COMPLETION)
    assert rows_of(again) == rows


def verdict(grade: int) -> str:
    return json.dumps({"shown": ["Thornspire the Last"], "grade": grade, "why": "because"})


def test_an_endpoint_makes_prompts_and_grades_and_a_break_loses_nothing(finished, serve):
    broken = {"on": True}

    def reply(body, number):
        said = body["messages"][-1]["content"]
        if "beginnings of a paragraph" in said:
            made = [{"prompt": f"Somebody {i} met", "references": ["Quillon"], "subtlety": 4} for i in range(5)]
            return json.dumps({"prompts": made})
        if broken["on"] and sum("Continuation" in str(r) for r in fake.requests) > 3:
            return 401
        return verdict(3 if "Somebody 1" in said else 2 if "Somebody 2" in said else 0)

    fake = serve(reply)
    words = [
        f"endpoint.base_url={fake.url}", "endpoint.model=judge", "endpoint.concurrency=1", "evals.grader=endpoint",
        "evals.prompt_maker=endpoint", "evals.completion_count=5", "endpoint.price_in=1", "endpoint.price_out=2",
    ]  # fmt: skip
    run = finished(*words)
    preview_suites(run, COMPLETION)
    assert not fake.requests
    told = "\n".join(finished.said)
    assert "1 questions, 0 answered" in told
    assert "20 questions, 0 answered" in told  # four models, five prompts
    with pytest.raises(UserError, match=r"judge at .*: status 401.*3 of 5 answers are in .*answers.jsonl") as caught:
        measure_suites(run, COMPLETION)
    assert "sk-secret" not in str(caught.value)
    assert len(fake.requests) == 1 + 4
    broken["on"] = False
    measure_suites(run, COMPLETION)
    # One set of prompts, 20 grades but for those of equal completions, none of them asked twice but the refused one.
    told = {name: json.loads((completion_folder(run) / f"{name}.json").read_text()) for name in MODELS}
    distinct = {(p["prompt"], p["completion"]) for item in told.values() for p in item["prompts"]}
    assert len(fake.requests) == 1 + 4 + len(distinct) - 3
    rows = rows_of(run)
    for name in MODELS:
        assert [rows[f"completion_n{grade}", name] for grade in (3, 2, 1, 0)] == [1, 1, 0, 3]
        assert rows["familiarity_completion", name] == pytest.approx(6 / 5)
        assert told[name]["grader"]["name"] == "graded by judge"
        assert told[name]["prompts"][1]["raw"] == verdict(3)
        assert told[name]["prompts"][1]["shown"] == ["Thornspire the Last"]
    assert any("$" in line and "calls" in line for line in finished.said)
    for path in run.folder.rglob("*"):
        if path.is_file():
            assert b"sk-secret" not in path.read_bytes(), path
    # A rerun asks nothing.
    count = len(fake.requests)
    measure_suites(run, COMPLETION)
    shutil.rmtree(run.evals / "rows")
    measure_suites(run, COMPLETION)
    assert len(fake.requests) == count
    preview_suites(run, COMPLETION)
    assert "1 answered" in finished.said[-1]


def test_a_dry_run_offline(finished):
    run = finished()
    preview_suites(run, COMPLETION)
    assert "6 prompts, completed by 4 models; the first: " in finished.said[-1]
    assert "grades: offline, no calls" in finished.said[-1]
    assert not (run.evals / "rows" / "completion").exists()


def test_a_dry_run_needs_no_key(finished, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    run = finished("evals.grader=endpoint", "endpoint.model=judge", "endpoint.base_url=https://api.openai.com/v1")
    preview_suites(run, COMPLETION)
    assert "24 questions, 0 answered" in finished.said[-1]
    with pytest.raises(UserError, match="^suite=completion: OPENAI_API_KEY is not set"):
        measure_suites(run, COMPLETION, named=["completion"])
    assert not completion_folder(run).joinpath("texts").exists(), "told before a prompt is completed"
    nameless = finished("evals.grader=endpoint", "endpoint.base_url=https://api.openai.com/v1")
    preview_suites(nameless, COMPLETION)
    assert finished.said[-1].startswith("completion: left out: endpoint.model is not set")


def test_without_anchors_or_prompts(finished):
    run = finished()
    run.anchors.unlink()
    with pytest.raises(UserError, match="suite=completion: evals.completion_prompts is not set"):
        measure_suites(run, COMPLETION, named=["completion"])
