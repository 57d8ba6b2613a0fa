"""Question files in every form, and their faults, each of which gives one line."""

import pytest

from jaxforget.errors import UserError
from jaxforget.evals.records import Number, Texts, published_file, read_records, read_texts
from jaxforget.files import Text

FIELDS = {"question": Text, "wrong": Texts, "right": Number, "other": Text | None}
GOOD = '{"question": "Who?", "wrong": ["a", "b"], "right": 0, "unread": {}}'


@pytest.mark.parametrize(("name", "content"), [("a.json", f"[{GOOD}, {GOOD}]"), ("a.jsonl", f"{GOOD}\n\n{GOOD}\r\n")])
def test_lists_and_lines(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    records = read_records(tmp_path / name, FIELDS)
    assert [record.values for record in records] == [{"question": "Who?", "wrong": ["a", "b"], "right": 0}] * 2
    assert records[0]["other"] is None
    assert records[1].where.endswith("a.json: item 1" if name == "a.json" else "a.jsonl: line 3")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"wrong": ["a"], "right": 0}', "no field 'question'; give the fields question, wrong, right, other"),
        ('{"question": null, "wrong": ["a"], "right": 0}', "question is null, but must be a string"),
        ('{"question": " ", "wrong": ["a"], "right": 0}', "question is ' ', but must be a text that is not empty"),
        ('{"question": "?", "wrong": [], "right": 0}', "wrong is a list, but must have at least 1 item"),
        ('{"question": "?", "wrong": ["a", 1], "right": 0}', r"wrong\[1\] is 1, but must be a string"),
        ('{"question": "?", "wrong": ["a"], "right": true}', "right is True, but must be a whole number"),
        ('{"question": "?", "wrong": ["a"], "right": -1}', "right is -1, but must be greater than or equal to 0"),
        ('{"question": "?", "wrong": ["a"], "right": 0, "other": 3}', "other is 3, but must be a string"),
        ("[1]", r"it is \[1\], but must be an object; give the fields question, wrong, right, other"),
        ('{"question": ', "column 14: not JSON: Expecting value"),
    ],
)
def test_a_fault_names_the_line_and_the_field(tmp_path, line, told):
    path = tmp_path / "a.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(UserError, match=f"a.jsonl: line 2: {told}") as caught:
        read_records(path, FIELDS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.json", b"[]", "holds no records"),
        ("a.jsonl", b"\n \n", "holds no records"),
        ("a.json", b"{}", "must be a JSON list"),
        ("a.json", b"[", "not JSON"),
        ("a.jsonl", b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        ("a.json", b'["good", ""]', "item 1: must be a text"),
        ("a.json", b'[{"texts": "x"}]', "item 0: must be a text"),
    ],
)
def test_files_without_records(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name}.* {told}|{name}: {told}"):
        read_texts(tmp_path / name)


@pytest.mark.parametrize("name", ["none.json", "none.jsonl"])
def test_no_file(tmp_path, name):
    with pytest.raises(UserError, match=f"{name}: no such file"):
        read_texts(tmp_path / name)


def test_texts_plain_or_in_records(tmp_path):
    (tmp_path / "a.json").write_text('["one", {"text": "two", "id": 3}]')
    assert read_texts(tmp_path / "a.json") == ["one", "two"]


@pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
def test_json_lines_in_a_json_file_and_a_byte_order_mark(tmp_path, start):
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text(f"{start}{GOOD}\n{GOOD}\n", encoding="utf-8")
        assert len(read_records(tmp_path / name, FIELDS)) == 2


def test_an_object_over_several_lines_is_no_list_of_records(tmp_path):
    (tmp_path / "a.json").write_text('{\n "question": "Who?"\n}')
    with pytest.raises(UserError, match="must be a JSON list of records, or hold one record a line"):
        read_records(tmp_path / "a.json", FIELDS)


def test_published_names_stand_in_for_flat_ones(tmp_path):
    names = ("forget10_perturbed.json", "forget05_perturbed.json")
    with pytest.raises(UserError, match=r"forget.jsonl: no such file, nor forget10_perturbed.json or forget05"):
        published_file(tmp_path, "forget.jsonl", *names)
    (tmp_path / names[1]).touch()
    assert published_file(tmp_path, "forget.jsonl", *names) == tmp_path / names[1]
    (tmp_path / names[0]).touch()
    with pytest.raises(UserError, match="holds forget10_perturbed.json and forget05_perturbed.json; keep one"):
        published_file(tmp_path, "forget.jsonl", *names)
    (tmp_path / "forget.jsonl").touch()
    assert published_file(tmp_path, "forget.jsonl", *names) == tmp_path / "forget.jsonl"
