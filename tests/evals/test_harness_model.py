"""The adapter beside lm-evaluation-harness's own Hugging Face model, on the same weights and tasks."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
import yaml
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import jaxforget
from jaxforget.errors import UserError
from jaxforget.evals import harness, harness_model
from jaxforget.evals.multiple_choice import choice_likelihoods, load_choices, measure_documents, right_answers
from jaxforget.evals.scorers import continuation_scorer
from tests.tiny_run import HEROES, PLACES
from tests.train.tiny import mesh_of


@pytest.fixture(scope="module")
def model(tiny_world):
    return jaxforget.load(tiny_world / "base", mesh=mesh_of())


@pytest.fixture(scope="module")
def ours(model):
    return harness.harness_model(model)


@pytest.fixture(scope="module")
def theirs(tiny_world):
    torch.set_num_threads(1)
    made = transformers.LlamaForCausalLM.from_pretrained(tiny_world / "base").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_world / "base")
    return HFLM(pretrained=made, tokenizer=tokenizer, batch_size=8)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A folder with a multiple-choice task: YAML for the harness, and the same documents in our own layout."""
    folder = tmp_path_factory.mktemp("task")
    rng = np.random.default_rng(0)
    forms = ("In the morning {} walked to", "Nobody knew what {} had found near", "{} met")
    choices = [*PLACES, "the café", "Vex", "an old friend who slept"]
    documents = [
        {
            "context": rng.choice(forms).format(rng.choice(HEROES)),
            "choices": rng.choice(choices, 4, replace=False).tolist(),
            "answer": int(rng.integers(4)),
        }
        for _ in range(60)
    ]
    (folder / "toy.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    described = {
        "task": "toy_choices",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "toy.jsonl")}},
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": name} for name in ("acc", "acc_norm", "acc_bytes")],
    }
    (folder / "toy.yaml").write_text(yaml.safe_dump(described))
    return folder


def instances(kind: str, *arguments: tuple) -> list[Instance]:
    return [Instance(kind, {}, some, i) for i, some in enumerate(arguments)]


PAIRS = (
    ("Zorvath met", " Quillon"),
    ("Zorvath met ", "Quillon near Thornspire."),
    ("", "Nobody in Vex Hollow"),
    ("In the morning", " Zorvath walked to Gloomwater and sang."),
    ("In the morning", " Ysolda"),
    ("Where is Brindle Mox? " * 30, "asked Ysolda."),  # beyond the 128 positions
)


def test_likelihoods(ours, theirs):
    asked = instances("loglikelihood", *PAIRS)
    found, expected = (lm.loglikelihood(asked, disable_tqdm=True) for lm in (ours, theirs))
    np.testing.assert_allclose([x for x, _ in found], [x for x, _ in expected], atol=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_a_greedy_continuation_is_told(ours, theirs):
    said = theirs.generate_until(instances("generate_until", ("Zorvath met", {"max_gen_toks": 3})))[0]
    asked = instances("loglikelihood", ("Zorvath met", said), ("Zorvath met", " London"))
    assert [greedy for _, greedy in ours.loglikelihood(asked)] == [
        greedy for _, greedy in theirs.loglikelihood(asked, disable_tqdm=True)
    ]


def test_rolling_likelihoods(ours, theirs):
    texts = (("Zorvath met Quillon.",), ("Nobody in Vex Hollow knew what Ysolda had found. " * 12,))
    asked = instances("loglikelihood_rolling", *texts)
    found, expected = (lm.loglikelihood_rolling(asked) for lm in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_generation_until(ours, theirs):
    asked = instances(
        "generate_until",
        ("Zorvath met", {"until": ["."], "max_gen_toks": 50}),
        ("In the morning Ysolda", {"until": ["qq", " T"], "max_gen_toks": 40}),
        ("Nobody in", {"until": [], "max_gen_toks": 5, "do_sample": False}),
        ("Quillon", {"until": ["."], "max_gen_toks": 50}),
    )
    # One by one: padding on the left moves the other's positions, and with them its argmax where two are close.
    expected = [theirs.generate_until([one], disable_tqdm=True)[0] for one in asked]
    assert ours.generate_until(asked) == expected
    assert any(expected)


def test_a_task_item_by_item(model, ours, theirs, task):
    """acc, acc_norm and acc_bytes of every document: the harness on its own model, on ours, and our own suite."""
    samples = []
    for lm in (ours, theirs):
        manager = TaskManager(include_path=str(task), include_defaults=False)
        results = simple_evaluate(lm, tasks=["toy_choices"], task_manager=manager, log_samples=True, bootstrap_iters=0)
        samples.append(sorted(results["samples"]["toy_choices"], key=lambda sample: sample["doc_id"]))
    documents = load_choices(task / "toy.jsonl")
    sums = choice_likelihoods(documents, continuation_scorer(model), model.tokenizer, max_length=128)
    right = right_answers(documents, sums)
    for metric in ("acc", "acc_norm", "acc_bytes"):
        by_item = [[sample[metric] for sample in some] for some in samples]
        assert by_item[0] == by_item[1] == right[metric].astype(float).tolist(), metric
        assert 0 < np.mean(by_item[0]) < 1
    assert list(right["acc"]) != list(right["acc_norm"]), "the task does not part the metrics"
    theirs_sums = [[float(answer[0][0]) for answer in sample["resps"]] for sample in samples[1]]
    np.testing.assert_allclose(sums, theirs_sums, atol=1e-4)


def test_rows_of_a_task(model, ours, task):
    rows = harness.measure(model, tasks=["toy_choices"], folder=task)
    assert [row.metric for row in rows] == [f"toy_choices_{name}" for name in ("acc", "acc_norm", "acc_bytes")]
    expected = {row.metric: row.value for row in measure_documents(load_choices(task / "toy.jsonl"), model)}
    for row in rows:
        assert row.value == pytest.approx(expected[row.metric.removeprefix("toy_choices_")])
        assert row.n == 60
        assert row.low < row.value < row.high
        assert "0-shot" in row.convention
    with pytest.raises(UserError, match=r"evals\.tasks: lm-evaluation-harness knows no task 'no_such_task'"):
        harness.measure(model, tasks=["no_such_task"], folder=task)


def test_the_index_of_tasks_is_read_once_and_again_after_a_change(model, task, tmp_path, monkeypatch):
    read = []

    def quick(include_path):
        read.append(include_path)
        return TaskManager(include_path=include_path, include_defaults=False)

    folder = shutil.copytree(task, tmp_path / "tasks")
    monkeypatch.setattr(harness_model, "TaskManager", quick)
    harness_model._task_manager.cache_clear()
    for _ in ("base", "unlearned"):
        assert harness.measure(model, tasks=["toy_choices"], folder=folder, limit=2)
    assert read == [str(folder)]
    (described,) = folder.glob("*.yaml")
    described.write_text(described.read_text().replace("toy_choices", "renamed"))
    with pytest.raises(UserError, match="toy_choices"):
        harness.measure(model, tasks=["toy_choices"], folder=folder)
    assert len(read) == 2


def test_settings_that_do_not_fit(ours):
    with pytest.raises(UserError, match="max_gen_toks=200: the model has 128 positions"):
        ours.generate_until(instances("generate_until", ("Zorvath", {"max_gen_toks": 200})))
    with pytest.raises(UserError, match="'' after 'Zorvath' has no token"):
        ours.loglikelihood(instances("loglikelihood", ("Zorvath", "")))
