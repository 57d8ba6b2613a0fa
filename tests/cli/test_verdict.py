"""The verdict at the end of `run` and `eval`."""

import pytest

from tests.cli.saying import status_of


@pytest.mark.parametrize("command", ["run", "eval"])
def test_a_finished_run_ends_with_its_verdict(capsys, copied, command):
    assert status_of(command, copied) == 0
    said = capsys.readouterr().err.splitlines()
    # Random models know nothing of the target.
    verdict = next(line for line in said if line.startswith("Not known before: "))
    assert "Perplexity" not in verdict
    assert (f"  jaxforget chat {copied}" in "\n".join(said)) == (command == "run")


def test_a_run_that_trained_nothing_says_so(capsys, copied):
    """A learning rate too small for float32 leaves base as it is, and the run must not look like any other."""
    assert status_of("run", copied, "--again", "forget.learning_rate=1e-30", "forget.max_steps=2") == 0
    said = capsys.readouterr().err
    assert "Nothing changed: the unlearned model scores exactly as base" in said
    assert "Nothing changed" in (copied / "report.html").read_text()
