"""Soft prompts: the split of the questions, the log-probabilities behind vectors, and their optimisation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.evals.familiarity import EncodedProbe
from jaxforget.evals.probes import Probe
from jaxforget.evals.soft_prompt import answer_log_probabilities, make_batches, measure, split_by_answer
from jaxforget.lm.model import load


def test_the_two_halves_share_no_answer():
    probes = [Probe(f"question {i}", f" answer{i % 5}") for i in range(20)]
    taught, asked = split_by_answer(probes, seed=1)
    assert sorted(map(repr, taught + asked)) == sorted(map(repr, probes))
    assert {p.answer for p in taught}.isdisjoint(p.answer for p in asked)
    assert len({p.answer for p in taught}) == 2
    assert split_by_answer(probes, seed=1) == (taught, asked)
    assert any(split_by_answer(probes, seed=seed) != (taught, asked) for seed in range(2, 8))
    with pytest.raises(UserError, match="every familiarity question has the answer 'b'"):
        split_by_answer([Probe("a", " b"), Probe("c", "b")])


def test_vectors_count_as_further_rows_of_the_embedding_table(tiny_world):
    """Beside whole logits of a model whose vocabulary has the vectors as further tokens."""
    model = load(tiny_world / "base", "float32")
    config, params = model.config, model.params
    vocabulary, hidden = params["embed"].shape
    soft = 0.5 * jax.random.normal(jax.random.key(0), (3, hidden))
    probes = [
        EncodedProbe((1, 0, 0, 0, 5, 9, 7, 4), 6),
        EncodedProbe((1, 0, 0, 0, 8, 3), 5),
        EncodedProbe((1, 0, 0, 0, 2, 2, 6), 4),
    ]
    assert [batch["weights"].tolist() for batch in make_batches(probes, 2, 8, 3)] == [[1, 1], [1, 0]]
    batches = make_batches(probes, 8, 8, 3)
    found = [answer_log_probabilities(model.module, 1, soft, params, batch) for batch in batches]
    found = np.concatenate([np.asarray(part) for part in found])[:3]
    for probe, value in zip(probes, found, strict=True):
        ids = np.array(probe.ids)
        x = np.asarray(params["embed"])[ids]
        x[1:4] = soft
        # A table with one row a position, read in order.
        table = np.concatenate([x, np.zeros((vocabulary - len(x), hidden), np.float32)])
        other = {**params, "embed": jnp.asarray(table)}
        assert not config.tie_word_embeddings
        rows = np.tile(np.arange(len(ids)), (8, 1))  # one for each device
        logits = model.module.apply({"params": other}, rows)[0]
        logp = jax.nn.log_softmax(logits)
        expected = sum(logp[i - 1, ids[i]] for i in range(probe.start, len(ids)))
        assert value == pytest.approx(float(expected), rel=1e-5)


def test_optimisation_raises_the_questions_it_is_given(tiny_world, tmp_path):
    model = load(tiny_world / "base", "float32")
    before = jax.tree.map(np.asarray, model.params)
    questions = json.loads((tiny_world / "probes.json").read_text())["familiarity"]
    path = tmp_path / "probes.json"
    path.write_text(json.dumps({"familiarity": questions}))
    values = {row.metric: row for row in measure(model, probes=path, prompt_vectors=4, prompt_steps=24, seed=0)}
    again = {row.metric: row for row in measure(model, probes=path, prompt_vectors=4, prompt_steps=24, seed=0)}
    one = {row.metric: row for row in measure(model, probes=path, prompt_vectors=4, prompt_steps=1, seed=0)}
    assert values == again
    assert values["soft_prompt_taught"].value > 1.5 * one["soft_prompt_taught"].value
    assert values["soft_prompt_start"].value == one["soft_prompt_start"].value
    assert values["soft_prompt"].n + values["soft_prompt_taught"].n == len(questions)
    assert values["soft_prompt"].items is not None
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, model.params))
    with pytest.raises(UserError, match="prompt_steps=0: must be above 0"):
        measure(model, probes=path, prompt_steps=0)
