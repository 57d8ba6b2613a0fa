"""Atomic files and folders, and JSON that must fit a schema."""

import dataclasses
import errno
import json
import os
import stat

import pytest

from jaxforget.errors import UserError
from jaxforget.files import Text, atomic_folder, check, read_json, read_model, write_json, write_text


def test_write_text_replaces_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_text(path, "first\r\nline")
    write_text(path, "zweite, ü 🙂")
    assert path.read_bytes() == "zweite, ü 🙂".encode()
    assert list(path.parent.iterdir()) == [path]


def test_line_ends_stay_as_given(tmp_path):
    write_text(tmp_path / "a", "a\r\nb\n")
    assert (tmp_path / "a").read_bytes() == b"a\r\nb\n"


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert os.umask(before) == before


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_content_and_names_the_file(call, tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as caught:
        write_json(path, {"new": 2})
    assert caught.value.filename == str(path)
    assert caught.value.errno == errno.ENOSPC
    assert read_json(path) == {"old": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_an_interrupted_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_text(path, "old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_round_trips_and_keeps_letters_readable(tmp_path):
    value = {"name": "Zoë ▁", "list": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "Zoë ▁" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert (tmp_path / "a.json").read_bytes().endswith(b"}\n")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'{"a": 1,}', "line 1 column "),
        (b'{\n "a": nope\n}', "line 2 column 7: not JSON"),
        (b"", "line 1 column 1: not JSON"),
        (b"caf\xe9", "not UTF-8 at byte 3"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", "a number of more than 4,300 digits"),
    ],
)
def test_bad_json_is_named_with_its_place(content, says, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_json(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert says in str(caught.value)


def test_json_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nothing\.json: no such file"):
        read_json(tmp_path / "nothing.json")
    with pytest.raises(UserError, match="is a folder; name a JSON file"):
        read_json(tmp_path)


def test_a_key_that_is_written_twice_is_refused(tmp_path):
    """A dict would silently keep the last of the two."""
    (tmp_path / "a.json").write_text('{"a": [1], "b": [], "a": [2]}')
    with pytest.raises(UserError, match="has the key 'a' twice in one object; remove one"):
        read_model(tmp_path / "a.json", dict[str, list[int]])


def test_a_file_in_a_folder_that_takes_none_is_named(tmp_path, monkeypatch):
    def refused(**_):
        raise OSError(errno.EACCES, "Permission denied", str(tmp_path / ".a.x8s"))

    monkeypatch.setattr("tempfile.mkstemp", refused)
    with pytest.raises(OSError, match="Permission denied") as caught:
        write_text(tmp_path / "a", "x")
    assert caught.value.filename == str(tmp_path / "a")


def test_atomic_folder_appears_at_its_end(tmp_path):
    path = tmp_path / "deep" / "model"
    with atomic_folder(path) as partial:
        (partial / "a").write_text("1")
        assert not path.exists()
        assert partial.parent == path.parent, "a rename must not cross file systems"
    assert (path / "a").read_text() == "1"
    with atomic_folder(path) as partial:
        (partial / "b").write_text("2")
    assert [file.name for file in path.iterdir()] == ["b"]
    assert list(path.parent.iterdir()) == [path]


def test_atomic_folder_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as partial:
        (partial / "a").write_text("1")

    def fail():
        with atomic_folder(path) as partial:
            (partial / "b").write_text("2")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fail()
    assert [file.name for file in path.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_cleared(tmp_path):
    path = tmp_path / "model"
    for left in (".model.partial", ".model.old"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "half").write_text("x")
    with atomic_folder(path) as partial:
        assert list(partial.iterdir()) == []
        (partial / "a").write_text(json.dumps(1))
    assert list(tmp_path.iterdir()) == [path]
    assert [file.name for file in path.iterdir()] == ["a"]


@dataclasses.dataclass(frozen=True)
class Question:
    __pydantic_config__ = {"extra": "forbid"}
    prompt: Text
    choices: tuple[Text, ...] = ()
    right: int = 0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([{}], "[0].prompt"),
        ([{"prompt": " "}], "[0].prompt is ' ', but must be a text that is not empty"),
        ([{"prompt": 3}], "[0].prompt is 3, but must be a string"),
        ([{"prompt": "\ud800"}], "[0].prompt is '\\ud800', but must not hold half of a \\u surrogate pair"),
        ([{"prompt": "?", "choices": ["a", None]}], "[0].choices[1] is null, but must be a string"),
        ([{"prompt": "?", "choices": "ab"}], "[0].choices is 'ab', but must be a list"),
        ([{"prompt": "?", "other": 1}], "unknown key '[0].other'"),
        ([["a"]], "[0] is ['a'], but must be an object"),
        ({"prompt": "?"}, "it is {'prompt': '?'}, but must be a list"),
    ],
)
def test_a_value_that_does_not_fit_is_told_in_one_line(tmp_path, value, said):
    with pytest.raises(UserError) as error:
        check(value, list[Question], "a.json", remedy="correct it")
    assert str(error.value).startswith("a.json: ")
    assert said in str(error.value)
    assert str(error.value).endswith("; correct it")
    assert "\n" not in str(error.value)


def test_a_file_is_read_as_its_schema(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('\ufeff[{"prompt": "Who?", "choices": ["a"]}]', encoding="utf-8")
    assert read_model(path, list[Question]) == [Question("Who?", ("a",))]
    path.write_text('[{"prompt": ""}]')
    with pytest.raises(UserError, match="a.json: .*; give questions"):
        read_model(path, list[Question], remedy="give questions")
