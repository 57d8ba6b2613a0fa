"""Files of the user's questions, and their faults, each of which gives one line with file and place."""

import json

import pytest

from jaxforget.errors import UserError
from jaxforget.evals.probes import Probe, Probes, Prompts, load_probes, load_prompts

GOOD = {"prompt": "Where did", "answer": " Jon"}


def written(folder, value) -> str:
    path = folder / "questions.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return str(path)


def test_probes(tmp_path):
    path = written(tmp_path, {"familiarity": [GOOD, {"prompt": "ein Schlüssel", "answer": " für", "note": 1}]})
    assert load_probes(path) == Probes((Probe("Where did", " Jon"), Probe("ein Schlüssel", " für")), ())


def test_prompts(tmp_path):
    path = written(tmp_path, {"dynamics": ["A", "B "], "completions": []})
    assert load_prompts(path) == Prompts(("A", "B "), ())


def test_none_given():
    assert load_probes(None) == Probes()
    assert load_prompts(None) == Prompts()


SHARED = [
    ("[1]", r"it is \[1\], but must be an object"),
    ('{"other": []}', r"unknown key 'other'"),
    ('{"KEY": {}}', r"KEY is an object, but must be a list"),
    ('{"KEY": null}', r"KEY is null, but must be a list"),
    ('{"KEY": [', r"line 1 column 15: not JSON"),
]


@pytest.mark.parametrize(
    ("content", "told"),
    [(content.replace("KEY", "retained"), told.replace("KEY", "retained")) for content, told in SHARED]
    + [
        ({"familiarity": [GOOD, "text"]}, r"familiarity\[1\] is 'text', but must be an object"),
        ({"familiarity": [{"prompt": "x"}]}, r"no field 'familiarity\[0\].answer'"),
        (
            {"retained": [GOOD, {"prompt": " ", "answer": "y"}]},
            r"retained\[1\].prompt is ' ', but must be a text",
        ),
        (
            {"retained": [{"prompt": "x", "answer": "  "}]},
            r"retained\[0\].answer is '  ', but must be a text",
        ),
        ({"retained": [{"prompt": "x", "answer": 7}]}, r"retained\[0\].answer is 7, but must be a string"),
    ],
)
def test_faults_of_probes(tmp_path, content, told):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=told) as error:
        load_probes(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [(content.replace("KEY", "dynamics"), told.replace("KEY", "dynamics")) for content, told in SHARED]
    + [
        ({"dynamics": ["A", 3]}, r"dynamics\[1\] is 3, but must be a string"),
        ({"completions": [""]}, r"completions\[0\] is a string, but must be a text that is not empty"),
    ],
)
def test_faults_of_prompts(tmp_path, content, told):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=told) as error:
        load_prompts(path)
    assert str(error.value).startswith(f"{path}: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("load", [load_probes, load_prompts])
def test_missing_file(tmp_path, load):
    with pytest.raises(UserError, match=r"gone\.json: no such file"):
        load(tmp_path / "gone.json")
