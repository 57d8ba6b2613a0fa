"""Measures during training: both files, without duplicate rows after an interruption."""

import json

import numpy as np
import pytest

from jaxforget.evals.familiarity import answer_probabilities, encode_probe
from jaxforget.evals.multiple_choice import Document, encode_choices
from jaxforget.evals.probes import Probe, Probes, Prompts
from jaxforget.evals.watch import (
    TOP,
    Watch,
    changed_questions,
    make_questions,
    measure,
    measure_ends,
    prompt_top_tokens,
)
from jaxforget.lm.scoring import perplexity
from tests.evals.asking import PARAMS, Pieces, placed, scorer, whole_logp
from tests.train.tiny import mesh_of, near, put

PROBES = Probes((Probe("a", " b"), Probe("c", " cdd")), (Probe("d", "a"),))
PROMPTS = Prompts(("a b", "d"), ("c",))
HELDOUT = [np.array([0, 3, 5, 7], np.int32), np.array([4], np.int32), np.array([0, 9], np.int32)]


@pytest.fixture(scope="module")
def one():
    return scorer(fsdp=1)


@pytest.fixture(scope="module")
def questions():
    return make_questions(PROBES, PROMPTS, HELDOUT, Pieces())


def read(folder, name):
    return json.loads((folder / "evals" / f"{name}.json").read_text())


def test_measures(one, questions):
    params = placed(1)
    found = measure(one, params, questions)
    for name in ("familiarity", "retained"):
        probes = [encode_probe(probe, Pieces()) for probe in getattr(PROBES, name)]
        assert found[name] == answer_probabilities(one, params, probes).mean()
    # A block of one token has nothing to predict.
    rows = [[0, 3, 5, 7], [0, 9]]
    assert found["perplexity"] == perplexity(one.log_probabilities(params, rows))


def test_the_margin_is_that_of_the_suite(one):
    """Each choice is scored after its context, the whole text at once."""
    params = placed(1)
    documents = [Document("a b", ("c", "d d", "a"), 1), Document("d", ("b", "a"), 0)]
    found = measure(one, params, make_questions(Probes(), Prompts(), [], Pieces(), documents))
    expected = []
    for document in documents:
        sums = []
        for choice in document.choices:
            before, after = encode_choices([Document(document.context, (choice,), 0)], Pieces())[0]
            logp = whole_logp([*before, *after])
            sums.append(sum(logp[len(before) - 1 + i, token] for i, token in enumerate(after)))
        wrong = [value for number, value in enumerate(sums) if number != document.answer]
        expected.append(sums[document.answer] - np.mean(wrong))
    assert found == {"margin": pytest.approx(np.mean(expected), rel=1e-4)}


@pytest.mark.parametrize(
    ("probes", "heldout", "names"),
    [
        (Probes(), [], set()),
        (Probes(familiarity=PROBES.familiarity), [], {"familiarity"}),
        (Probes(), HELDOUT, {"perplexity"}),
    ],
)
def test_only_what_is_asked_is_measured(one, tmp_path, probes, heldout, names):
    questions = make_questions(probes, Prompts(), heldout, Pieces())
    watch = Watch(tmp_path, one, questions, Pieces(), first_step=0)
    assert set(watch(0, placed(1))) == names
    (row,) = read(tmp_path, "curve")["rows"]
    assert {name for name, value in row.items() if value is not None} == names | {"step"}
    assert set(row) == {"step", "familiarity", "retained", "perplexity", "margin"}
    assert not (tmp_path / "evals" / "dynamics.json").exists()


def test_files(one, questions, tmp_path):
    watch = Watch(tmp_path, one, questions, Pieces(), first_step=0)
    other = put(near(PARAMS, 5), mesh_of())
    watch.reference("base", prompt_top_tokens(one, placed(1), questions, Pieces()))
    measures = [watch(step, other) for step in (0, 10)]
    assert read(tmp_path, "curve")["rows"] == [
        {"step": step, "margin": None, **found} for step, found in zip((0, 10), measures, strict=True)
    ]
    prompts = read(tmp_path, "dynamics")["prompts"]
    assert [item["prompt"] for item in prompts] == list(PROMPTS.dynamics)
    for item in prompts:
        assert list(item["models"]) == ["base"]
        assert [entry["step"] for entry in item["steps"]] == [0, 10]
        assert item["steps"][0]["top"] != item["models"]["base"]
        logp = whole_logp(Pieces()(item["prompt"])["input_ids"])[-1]
        best = np.argsort(-logp)[:TOP]
        assert [top["token"] for top in item["models"]["base"]] == [Pieces().convert_ids_to_tokens(i) for i in best]
        np.testing.assert_allclose([top["p"] for top in item["models"]["base"]], np.exp(logp[best]), atol=1e-6)


def test_going_on_drops_what_came_after_the_restored_step(one, questions, tmp_path):
    first = Watch(tmp_path, one, questions, Pieces(), first_step=0)
    first.reference("base", prompt_top_tokens(one, placed(1), questions, Pieces()))
    for step in (0, 10, 20, 30):
        first(step, placed(1))
    watch = Watch(tmp_path, one, questions, Pieces(), first_step=10)
    watch(20, put(near(PARAMS, 5), mesh_of()))
    rows = read(tmp_path, "curve")["rows"]
    assert [row["step"] for row in rows] == [0, 10, 20]
    assert rows[1]["familiarity"] == rows[0]["familiarity"] != rows[2]["familiarity"]
    for item in read(tmp_path, "dynamics")["prompts"]:
        assert [entry["step"] for entry in item["steps"]] == [0, 10, 20]
        assert list(item["models"]) == ["base"], "a reference that is not measured again was lost"


def test_starting_over_drops_everything(one, questions, tmp_path):
    for _ in range(2):
        watch = Watch(tmp_path, one, questions, Pieces(), first_step=0)
        watch(0, placed(1))
    assert [row["step"] for row in read(tmp_path, "curve")["rows"]] == [0]
    assert all(len(item["steps"]) == 1 and not item["models"] for item in read(tmp_path, "dynamics")["prompts"])


def test_a_new_prompt_joins_on_the_way(one, questions, tmp_path):
    watch = Watch(tmp_path, one, questions, Pieces(), first_step=0)
    watch(0, placed(1))
    more = make_questions(PROBES, Prompts(("d", "abc"), ()), HELDOUT, Pieces())
    Watch(tmp_path, one, more, Pieces(), first_step=5)(10, placed(1))
    steps = {item["prompt"]: [s["step"] for s in item["steps"]] for item in read(tmp_path, "dynamics")["prompts"]}
    assert steps == {"d": [0, 10], "abc": [10]}


def test_rows_that_other_questions_gave_are_dropped(one, questions, tmp_path):
    Watch(tmp_path, one, questions, Pieces(), first_step=0, inputs={"evals.probes": "1"})(0, placed(1))
    for hashed, steps in (("1", [0, 10]), ("2", [10])):
        Watch(tmp_path, one, questions, Pieces(), first_step=5, inputs={"evals.probes": hashed})(10, placed(1))
        assert [row["step"] for row in read(tmp_path, "curve")["rows"]] == steps


def test_ends_measured_anew(one, questions, tmp_path):
    asked = {"evals.probes": "1", "evals.prompts": "1", "model.control": "1"}
    watch = Watch(tmp_path, one, questions, Pieces(), first_step=0, inputs=asked)
    for step in (0, 10, 20):
        watch(step, placed(1))
    assert changed_questions(tmp_path, asked) == set()
    now = asked | {"evals.prompts": "2", "model.control": "2"}
    assert changed_questions(tmp_path, now) == {"evals.prompts", "model.control"}
    more = make_questions(PROBES, Prompts(("d", "abc"), ()), HELDOUT, Pieces())
    other = put(near(PARAMS, 5), mesh_of())
    references = {"control": prompt_top_tokens(one, other, more, Pieces())}
    measure_ends(tmp_path, one, more, Pieces(), {0: placed(1), 20: other}, references, now)
    assert changed_questions(tmp_path, now) == set()
    # The curve asks the same: it stays. A prompt that was followed stays too; a new one has its ends.
    assert [row["step"] for row in read(tmp_path, "curve")["rows"]] == [0, 10, 20]
    prompts = read(tmp_path, "dynamics")["prompts"]
    assert {item["prompt"]: [s["step"] for s in item["steps"]] for item in prompts} == {
        "d": [0, 10, 20],
        "abc": [0, 20],
    }
    assert [item["models"]["control"] for item in prompts] == references["control"]
    last = asked | {"evals.probes": "2"}
    measure_ends(tmp_path, one, more, Pieces(), {0: placed(1), 20: other}, references, last)
    rows = read(tmp_path, "curve")["rows"]
    assert rows == [
        {"step": step, "margin": None, **measure(one, params, more)} for step, params in ((0, placed(1)), (20, other))
    ]
