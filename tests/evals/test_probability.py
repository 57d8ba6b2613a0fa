"""The interval of a perplexity, and the block length that `evaluate` takes by default."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import jaxforget
from jaxforget.evals.probability import perplexity_rows
from jaxforget.lm.scoring import perplexity
from tests.tiny_run import BLOCK


def test_perplexity_interval_holds_the_perplexity():
    """Blocks are drawn with replacement: the interval is that of the same draws, computed at once."""
    rng = np.random.default_rng(0)
    scores = [-rng.exponential(2.0, rng.integers(5, 50)) for _ in range(40)]
    scorer = SimpleNamespace(log_probabilities=lambda params, rows: scores)
    (row,) = perplexity_rows(scorer, None, [np.array([1, 2])], 8, "m")
    assert (row.value, row.n) == (perplexity(scores), 40)
    assert row.low < row.value < row.high
    sums, counts = np.array([s.sum() for s in scores]), np.array([len(s) for s in scores])
    picks = np.random.default_rng(0).integers(0, 40, (1000, 40))
    drawn = np.exp(-sums[picks].sum(axis=1) / counts[picks].sum(axis=1))
    assert (row.low, row.high) == tuple(np.percentile(drawn, [2.5, 97.5]))


@pytest.mark.parametrize("name", ["base", "unlearned", "export"])
def test_a_model_of_a_run_has_the_figures_of_the_runs_table_by_default(tiny_run, tiny_world, tmp_path, name):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    if name == "base":
        shutil.copytree(tiny_world / "base", run / "base")
    rows = json.loads((run / "evals" / "summary.json").read_text())["rows"]
    wanted = {row["metric"]: row for row in rows if row["model"] == ("base" if name == "base" else "unlearned")}
    model = jaxforget.load(run / name)
    found = jaxforget.evaluate(model, probes=tiny_world / "probes.json", heldout=tiny_world / "heldout")
    for row in found:
        same = wanted[row["metric"]]
        assert row["value"] == pytest.approx(same["value"], rel=1e-5)
        assert (row["convention"], row["n"]) == (same["convention"], same["n"])
    assert f"blocks of {BLOCK} tokens" in next(row["convention"] for row in found if row["metric"] == "perplexity")
    (longer,) = jaxforget.evaluate(model, heldout=tiny_world / "heldout", length=48)
    assert "blocks of 48 tokens" in longer["convention"]
