"""Benchmarks read from prepared data, and their prompts beside lm-evaluation-harness's own."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jinja2 import Environment

from jaxforget.errors import UserError
from jaxforget.evals.benchmarks import BENCHMARKS, load_benchmark
from tests.evals.published import RECORDS, SPLITS, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("tfds")
    for dataset, records in RECORDS.items():
        prepare(place, dataset, SPLITS[dataset], records)
    return place


def asked(folder, name: str) -> list[tuple]:
    return [(document.pairs(), document.answer) for document in load_benchmark(name, folder)]


def pairs(context: str, *choices: str) -> list[tuple[str, str]]:
    return [(context, choice) for choice in choices]


EXPECTED = {
    "arc_easy": [
        (pairs("Question: Why?\nAnswer:", "a", "no"), 1),
        (pairs("Question: Who?\nAnswer:", *"vwxyz"), 4),
    ],
    "boolq": [(pairs("Title -- It is.\nQuestion: is it so?\nAnswer:", "no", "yes"), 1)],
    "hellaswag": [
        (pairs("Roof: A man sits. Then, he also", "he sits.", " he runs.", "c", "d"), 2),
        (pairs("Pets: How to.. Wash it. Take soap", "he sits.", " he runs.", "c", "d"), 0),
    ],
    "openbookqa": [(pairs("Sun is", "hot", "cold", "wet", "é"), 3)],
    "piqa": [(pairs("Question: open it\nAnswer:", "pull", "push it"), 1)],
    "winogrande": [([("The cup fits as the cup", "is big."), ("The cup fits as the box", "is big.")], 1)],
}
EXPECTED["arc_challenge"] = EXPECTED["arc_easy"]


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_documents(folder, name):
    assert asked(folder, name) == EXPECTED[name]


def task_file(name: str) -> dict:
    import lm_eval

    places = {
        "arc_easy": "arc/arc_easy.yaml",
        "boolq": "super_glue/boolq/default.yaml",
        "openbookqa": "openbookqa/openbookqa.yaml",
        "piqa": "piqa/piqa.yaml",
    }
    text = (Path(lm_eval.__file__).parent / "tasks" / places[name]).read_text()
    return yaml.safe_load(text)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("arc_easy", {"question": "Why?", "choices": {"text": ["a", "no"], "label": ["A", "B"]}, "answerKey": "B"}),
        ("boolq", {"passage": "Title -- It is.", "question": "is it so", "label": 1}),
        (
            "openbookqa",
            {"question_stem": "Sun is", "choices": {"text": ["hot", "cold", "wet", "é"], "label": list("ABCD")},
             "answerKey": "D"},
        ),
        ("piqa", {"goal": "open it", "sol1": "pull", "sol2": "push it", "label": 1}),
    ],
)  # fmt: skip
def test_prompts_are_those_of_the_harness(folder, name, fields):
    """The harness's own task files, as installed, filled with the same document in the form that it reads."""
    task = task_file(name)

    def filled(template):
        if not isinstance(template, str) or template in fields:
            return fields[template] if isinstance(template, str) else template
        return Environment().from_string(template).render(**fields)

    choices = filled(task["doc_to_choice"])
    choices = yaml.safe_load(choices) if isinstance(choices, str) else choices
    assert task.get("target_delimiter", " ") == " "
    document = load_benchmark(name, folder)[0]
    assert document.context == filled(task["doc_to_text"])
    assert list(document.choices) == choices
    assert document.answer == int(filled(task["doc_to_target"]))
    assert BENCHMARKS[name].split == (task.get("test_split") or task["validation_split"])
    metrics = [metric["metric"] for metric in task["metric_list"]]
    assert set(metrics) <= set(BENCHMARKS[name].metrics)


def test_hellaswag_text_is_cleaned_as_the_harness_does():
    from lm_eval.tasks.hellaswag import utils

    from jaxforget.evals.benchmarks import _plain

    for text in ("  a [title] b [step] c  d ", "[header] How [title] x", "plain", "two  blanks   three"):
        assert _plain(text) == utils.preprocess(text)


def test_winogrande_as_the_harness_does(folder):
    from lm_eval.tasks.winogrande import preprocess_winogrande as theirs

    record = RECORDS["winogrande"][0] | {"answer": "2"}
    document = load_benchmark("winogrande", folder)[0]
    assert list(document.choices) == theirs.doc_to_choice(record)
    assert document.ending == theirs.doc_to_target(record)
    assert document.answer == theirs.doc_to_text(record)


def test_the_newest_version_and_a_limit(tmp_path):
    for version, goal in (("1.9.0", "old"), ("1.10.0", "new")):
        records = [{"id": str(i), "goal": f"{goal} {i}", "sol1": "a", "sol2": "b", "label": 0} for i in range(3)]
        prepare(tmp_path, "piqa", "validation", records, version)
    assert [d.context for d in load_benchmark("piqa", tmp_path, 2)] == [f"Question: new {i}\nAnswer:" for i in range(2)]


def test_neither_tensorflow_nor_the_builders_code_is_needed(folder):
    code = (
        "import sys; from jaxforget.evals.benchmarks import load_benchmark; "
        f"assert len(load_benchmark('hellaswag', {str(folder)!r})) == 2; "
        "assert 'tensorflow' not in sys.modules and 'tensorflow_datasets.text' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_faults_are_named(folder, tmp_path):
    with pytest.raises(UserError, match="benchmark 'mmlu': the benchmarks are arc_challenge, arc_easy"):
        load_benchmark("mmlu", folder)
    with pytest.raises(UserError, match="piqa: no prepared data set; run: tfds build piqa --file_format=array_record"):
        load_benchmark("piqa", tmp_path)
    prepare(tmp_path, "piqa", "train", RECORDS["piqa"])
    with pytest.raises(UserError, match=r"piqa/1\.0\.0: no split 'validation'; it has train"):
        load_benchmark("piqa", tmp_path)
    unanswered = [RECORDS["hellaswag"][0] | {"label": -1}]
    prepare(tmp_path, "hellaswag", "validation", unanswered)
    with pytest.raises(UserError, match="hellaswag, split validation: record 0 has no answer"):
        load_benchmark("hellaswag", tmp_path)
    (tmp_path / "winogrande" / "1.0.0").mkdir(parents=True)
    (tmp_path / "winogrande" / "1.0.0" / "dataset_info.json").write_text("{")
    with pytest.raises(UserError, match="winogrande/1.0.0: cannot be opened"):
        load_benchmark("winogrande", tmp_path)
