"""Probabilities that only the page shows, against the model's own logits."""

import json

import jax
import numpy as np
import pytest

import jaxforget
from jaxforget.evals.probes import Probes
from jaxforget.stages.page_details import questions_of_page


def probabilities(model, ids: list[int]) -> np.ndarray:
    """Return the probability of every token but the first, given those before it."""
    logp = jax.nn.log_softmax(jaxforget.logits(model, np.array([ids], np.int32))[0], axis=-1)
    return np.exp([float(logp[place, token]) for place, token in enumerate(ids[1:])])


@pytest.mark.parametrize("name", ["base", "unlearned"])
def test_every_question_has_the_probability_of_its_whole_answer(tiny_run, tiny_world, name):
    model = jaxforget.load(tiny_world / "base" if name == "base" else tiny_run / name)
    questions = json.loads((tiny_run / "evals" / "questions.json").read_text())["questions"]
    assert {question["kind"] for question in questions} == {"familiarity", "retained"}
    for question in questions:
        start = len(model.tokenizer(question["prompt"])["input_ids"])
        ids = model.tokenizer(question["prompt"] + question["answer"])["input_ids"]
        expected = np.prod(probabilities(model, ids)[start - 1 :])
        assert question["probability"][name] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("name", ["base", "unlearned"])
def test_every_token_of_the_passage_has_its_probability(tiny_run, tiny_world, name):
    model = jaxforget.load(tiny_world / "base" if name == "base" else tiny_run / name)
    tokens = json.loads((tiny_run / "evals" / "passage.json").read_text())["tokens"]
    ids = model.tokenizer.convert_tokens_to_ids([token["text"] for token in tokens])
    assert "probability" not in tokens[0]
    shown = [token["probability"][name] for token in tokens[1:]]
    np.testing.assert_allclose(shown, probabilities(model, ids), rtol=1e-3, atol=2e-6)


def test_a_run_without_probes_has_no_questions():
    assert questions_of_page(Probes()) == []
