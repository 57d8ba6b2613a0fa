"""`eval suite=…` as a command: what a dry run shows, and faults of its surroundings."""

import json
import shutil

from jaxforget.config import load_config
from tests.cli.saying import fault, status_of


def test_a_dry_run_shows_what_would_be_asked_and_asks_nothing(capsys, copied, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    words = ["evals.grader=endpoint", "endpoint.base_url=http://127.0.0.1:9/v1", "endpoint.model=judge"]
    count = "evals.completion_count=4"
    assert status_of("eval", copied, "suite=completion,prompting", "--dry-run", count, *words) == 0
    told = capsys.readouterr().err
    assert "prompting: the questions rephrased" in told
    assert "asks no endpoint" in told
    assert "4 prompts, completed by 3 models" in told
    assert "judge at http://127.0.0.1:9/v1: 12 questions, 0 answered" in told
    assert "12 calls to make" in told
    assert "sk-secret" not in told
    assert not (copied / "evals" / "completion" / "unlearned.json").exists()


def test_faults_of_a_suites_surroundings(capsys, copied, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert "name them, as suite=completion" in fault(capsys, "eval", copied, "--dry-run")
    asked = fault(capsys, "eval", copied, "suite=completion", "evals.grader=endpoint")
    assert "suite=completion: endpoint.model is not set" in asked
    asked = fault(capsys, "eval", copied, "suite=completion", "evals.grader=endpoint", "endpoint.model=m")
    assert "OPENAI_API_KEY is not set" in asked
    # What was refused must not become the configuration of the run.
    assert load_config(copied).evals.grader != "endpoint"
    recorded = json.loads((copied / "manifest.json").read_text())["files"]
    assert any(file.startswith("evals/rows/") for file in recorded)
    secret = "endpoint.api_key=sk-secret"
    assert "sk-secret" not in fault(capsys, "eval", copied, "suite=completion", secret)


def test_rows_that_are_gone_are_measured_again(capsys, copied):
    def metrics():
        return {row["metric"] for row in json.loads((copied / "evals" / "summary.json").read_text())["rows"]}

    before = metrics()
    assert "familiarity" in before
    shutil.rmtree(copied / "evals" / "rows")
    assert status_of("eval", copied) == 0
    assert "eval again: its output is gone or damaged" in capsys.readouterr().err
    assert metrics() == before


def test_attacks_are_printed_beside_the_control_and_a_rerun_asks_nothing(capsys, copied, tiny_world):
    words = [f"model.control={tiny_world / 'control'}", "evals.passages=4"]
    assert status_of("eval", copied, "suite=prompting,audit", *words) == 0
    told = capsys.readouterr().err
    assert "unlearned: prompting: " in told
    (header,) = [
        line.split() for line in told.splitlines() if line.split()[:1] == ["base"] and "control" in line.split()
    ]
    assert header == ["base", "reinforced", "unlearned", "control"]
    (plain,) = [line.split() for line in told.splitlines() if line.split()[:1] == ["plain"]]
    assert len(plain) == 1 + 3 * 2 + 1  # a distance in brackets for each but the control
    page = (copied / "report.html").read_text()
    assert "Attacks, against the control" in page
    assert "Most comes back under" in page
    assert "better than the control, which never read it" in page or "No word of the passages read leaks" in page
    assert status_of("eval", copied, "suite=prompting,audit", *words) == 0
    assert capsys.readouterr().err.count("up to date") == 8
