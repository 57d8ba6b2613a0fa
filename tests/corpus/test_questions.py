"""Records of questions: found by their shape, in every form in which they are published; faults by name."""

import json

import pytest

from jaxforget.corpus.questions import Question, read_alternates
from jaxforget.corpus.text import Document, Source
from jaxforget.errors import UserError

ONE = {"question": " Who ran? ", "answer": "Bo.\r\nAl."}
TWO = {"question": "Where?", "answer": "{far}", "alternate": "Near.", "paraphrased_answer": "x", "perturbed_answer": []}
THREE = {"question": "When?", "answer": "Now.", "alternate": ["Never.", "Later."]}
QUESTIONS = [
    Question("Who ran?", "Bo.\nAl."),
    Question("Where?", "{far}", ("Near.",)),
    Question("When?", "Now.", ("Never.", "Later.")),
]


def lines(*records) -> str:
    return "\n".join(map(json.dumps, records)) + "\n"


def read(path, **options) -> list[Document]:
    return list(Source(path, **options).documents())


def fault(path, text, **options) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.jsonl", lines(ONE, TWO, THREE), (":1", ":2", ":3")),
        ("forget10.json", lines(ONE, TWO, THREE), (":1", ":2", ":3")),  # TOFU's own files
        ("b.json", json.dumps([ONE, TWO, THREE], indent=1), (": item 0", ": item 1", ": item 2")),
    ],
)
def test_every_published_form_is_read(name, text, places, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    found = read(path)
    assert [document.question for document in found] == QUESTIONS
    assert [document.name for document in found] == [f"{path}{place}" for place in places]
    assert found[1].text == "Question: Where?\nAnswer: {far}"


def test_two_named_fields_are_a_question_and_its_answer(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({"prompt": "Who ran?", "completion": "Bo.", "text": "x"}))
    assert read(path, field="prompt, completion")[0].question == Question("Who ran?", "Bo.")
    assert "no field 'reply'; it has 'prompt', 'completion', 'text'" in fault(
        path, path.read_text(), field="prompt,reply"
    )


def test_records_with_the_field_of_the_text_are_texts(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(lines({**ONE, "text": "one"}))
    assert read(path) == [Document(f"{path}:1", "one")]
    path.write_text(lines(ONE))
    assert read(path, field="answer") == [Document(f"{path}:1", "Bo.\nAl.")]


def test_a_json_file_of_texts_is_read_if_it_is_named(tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "one"}, {"text": "two"}]')
    assert [document.text for document in read(tmp_path / "a.json")] == ["one", "two"]
    (tmp_path / "b.txt").write_text("three")
    assert [document.text for document in read(tmp_path)] == ["three"]
    assert "files that are no .txt, .md, .jsonl: a.json" in Source(tmp_path).left_out()[0]


def test_faults_are_told_in_a_line(tmp_path):
    path = tmp_path / "a.jsonl"
    text = {"text": "x"}
    assert f"{path}:2: one of texts, but the records before it are questions" in fault(path, lines(ONE, text))
    assert f"{path}:2: one of questions, but the records before it are texts" in fault(path, lines(text, ONE))
    assert f"{path}:2: no field 'answer'; it has 'question'; give every record question and answer" in fault(
        path, lines(ONE, {"question": "Who?"})
    )
    assert "no field 'text'; it has 'question'" in fault(path, lines({"question": "Who?"}))
    for name, value in (("question", ""), ("answer", " "), ("answer", 7), ("alternate", [""]), ("alternate", 3)):
        assert f"{path}:1: '{name}'" in fault(path, lines({**ONE, name: value}))
    assert "half of a \\u surrogate pair" in fault(path, '{"question": "Who?", "answer": "\\udc00"}')
    path = tmp_path / "a.json"
    assert "item 1: not an object" in fault(path, json.dumps([ONE, 3]))
    assert "a.json: line 3 column 1: not JSON" in fault(path, "[\n1,\n")
    assert "a.json:1: column 2: not JSON" in fault(path, "{\n}")


def test_alternative_answers_are_lines_of_text(tmp_path):
    path = tmp_path / "idk.jsonl"
    path.write_text("I don't know.\n\n  42\r\n", encoding="utf-8")
    assert read_alternates(path) == ("I don't know.", "42")
    for text, told in ((" \n", "holds no answers; put"), ('a\n{"text": "b"}\n', "idk.jsonl:2: is JSON")):
        path.write_text(text)
        with pytest.raises(UserError, match=told):
            read_alternates(path)
    path.write_bytes(b"a\xff")
    with pytest.raises(UserError, match="not UTF-8 at byte 1"):
        read_alternates(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_alternates(tmp_path)
