import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxforget.config.schema import RetainOptions
from jaxforget.corpus.text import Document, Source, source_of
from jaxforget.errors import UserError


def read(*args, data_dir=None, **options):
    return list(Source(*args, **options).documents(data_dir))


def fault(*args, **options):
    with pytest.raises(UserError) as error:
        read(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_folder_is_read_in_depth_and_sorted(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "two.md").write_text("Zwei", encoding="utf-8")
    (tmp_path / "a.TXT").write_bytes("\ufeffEins\r\nzwei\rdrei".encode())
    (tmp_path / "c.jsonl").write_text('{"text": "x"}\n\n{"text": "", "y": 1}\n{"text": "z\\r\\n"}\n')
    (tmp_path / "picture.png").write_bytes(b"\xff")
    (tmp_path / ".hidden.txt").write_bytes(b"\xff")
    assert read(tmp_path) == [
        Document(f"{tmp_path}/a.TXT", "Eins\nzwei\ndrei"),
        Document(f"{tmp_path}/b/two.md", "Zwei"),
        Document(f"{tmp_path}/c.jsonl:1", "x"),
        Document(f"{tmp_path}/c.jsonl:4", "z\n"),
    ]
    assert read(tmp_path / "b" / "two.md") == [Document(f"{tmp_path}/b/two.md", "Zwei")]


def test_the_field_of_a_jsonl_file(tmp_path):
    path = tmp_path / "posts.jsonl"
    path.write_text('{"body": "one", "id": 1}\n{"id": 2}\n')
    assert "posts.jsonl:1: no field 'text'; it has 'body', 'id'" in fault(path)
    assert "posts.jsonl:2: no field 'body'; it has 'id'" in fault(path, field="body")
    assert "posts.jsonl:1: the field 'id' is no string; name the field that holds the text" in fault(path, field="id")
    path.write_text('{"text": "one"}\n{"text": \n')
    assert "posts.jsonl:2: column 10: not JSON" in fault(path)
    path.write_text('{"text": "one"}\n{"text": "\\udc00"}\n')
    assert "posts.jsonl:2: the field 'text' holds half of a \\u surrogate pair" in fault(path)
    path.write_text("[1]\n")
    assert "posts.jsonl:1: not an object" in fault(path)
    path.write_text('{"text": " "}\n')
    assert "posts.jsonl: the field 'text' is empty in every record" in fault(path)


def test_links_to_folders_are_followed_once_and_what_is_left_out_is_named(tmp_path):
    texts, elsewhere = tmp_path / "texts", tmp_path / "elsewhere"
    (texts / "real").mkdir(parents=True)
    elsewhere.mkdir()
    (texts / "real" / "one.txt").write_text("one")
    (texts / "book.epub").write_text("x")
    (elsewhere / "two.txt").write_text("two")
    (elsewhere / "back").symlink_to(texts)
    (texts / "a_link").symlink_to(texts / "real")
    (texts / "linked").symlink_to(elsewhere)
    (texts / "again").symlink_to(elsewhere)
    (texts / "file.txt").symlink_to(elsewhere / "two.txt")
    (texts / "gone.txt").symlink_to(tmp_path / "gone.txt")
    (texts / "circle").symlink_to(texts / "circle")
    names = [str(document.name) for document in read(texts)]
    assert names == [f"{texts}/again/two.txt", f"{texts}/file.txt", f"{texts}/real/one.txt"]
    links, others = Source(texts).left_out()
    assert links.endswith("links that lead nowhere or in a circle: circle, gone.txt")
    assert others.endswith("files that are no .txt, .md, .jsonl: book.epub")
    assert Source(texts / "real").left_out() == []
    assert "is a link that leads nowhere or in a circle" in fault(texts / "circle")
    assert "is a link that leads nowhere or in a circle" in fault(texts / "gone.txt")


def test_the_text_behind_a_link_is_part_of_the_fingerprint(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "linked").symlink_to(tmp_path / "elsewhere")
    marks = set()
    for text in ("one", "two"):
        (tmp_path / "elsewhere" / "a.txt").write_text(text)
        marks.add(Source(tmp_path / "texts").fingerprint(lambda file: file.read_text()))
    assert len(marks) == 2


def test_a_fingerprint_follows_content_field_and_split_not_the_place(tmp_path):
    def mark(path, **options):
        return Source(path, **options).fingerprint(lambda file: str(file.read_bytes()))

    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.txt").write_text("one")
        (tmp_path / folder / "picture.png").write_text(folder)
    first = mark(tmp_path / "a")
    assert first == mark(tmp_path / "b")
    assert len({first, mark(tmp_path / "a", field="body"), mark(tmp_path / "a", split="test")}) == 3
    (tmp_path / "b" / "one.txt").write_text("two")
    assert mark(tmp_path / "b") != first
    assert mark("tfds:x") != mark("tfds:y")
    assert mark(tmp_path / "none.txt") != mark(tmp_path / "other.txt")


def test_a_section_of_the_configuration_gives_a_source():
    options = RetainOptions(path="notes", field="body", split="test")
    assert source_of(options) == Source("notes", "body", "test")
    assert source_of(RetainOptions()) is None


def test_utf8_is_strict_with_the_byte(tmp_path):
    path = tmp_path / "book.txt"
    path.write_bytes(b"abc\xe9def")
    assert fault(path) == f"{path}: not UTF-8 at byte 3; save it as UTF-8"


def test_empty_and_missing_input(tmp_path):
    assert "holds no .txt, .md, .jsonl file" in fault(tmp_path)
    (tmp_path / "blank.txt").write_text(" \n\t")
    assert "blank.txt: the file is empty" in fault(tmp_path)
    assert "no such file or folder" in fault(tmp_path / "none.txt")
    (tmp_path / "book.epub").write_text("x")
    assert "book.epub: not a .txt, .md, .jsonl or .json file" in fault(tmp_path / "book.epub")


class Tales(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")
    name = "tales"
    code_path = None
    texts = (b"one \xc3\xa9\r\nline", b" ", b"two")

    def _info(self):
        features = {"story": tfds.features.Text(), "number": np.int32}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, dl_manager):
        return {"train": ((n, {"story": text, "number": n}) for n, text in enumerate(self.texts))}

    def _generate_examples(self):
        raise NotImplementedError


def test_a_prepared_data_set(tmp_path, monkeypatch):
    Tales(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    expected = [Document("tfds:tales[train]:0", "one é\nline"), Document("tfds:tales[train]:2", "two")]
    assert read("tfds:tales", field="story", data_dir=tmp_path) == expected
    monkeypatch.chdir(tmp_path.parent)  # a folder without a file "tales"
    assert read("tales", field="story", data_dir=tmp_path) == expected
    assert "no field 'text'; it has" in fault("tfds:tales", data_dir=tmp_path)
    assert "the field 'number' is not text" in fault("tfds:tales", field="number", data_dir=tmp_path)
    assert "tfds:tales: no split 'test'; it has 'train'" in fault("tfds:tales", split="test", data_dir=tmp_path)
    for name in ("stories", "tfds:stories"):
        assert fault(name, data_dir=tmp_path).startswith(f"{name}: no such file, folder or tensorflow-datasets")
    unprepared = fault("tfds:ag_news_subset", data_dir=tmp_path)
    assert "tfds build ag_news_subset --file_format=array_record" in unprepared


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "the list holds no record; add some"),
        ('{\n "text": "a"\n}\n', "write a list of records"),
        ('{"text": ' + "9" * 5000 + "}", "a number of more than 4,300 digits"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_json_file_that_holds_no_records(tmp_path, content, says):
    (tmp_path / "a.json").write_text(content)
    line = fault(tmp_path / "a.json")
    assert line.startswith(f"{tmp_path / 'a.json'}:")
    assert says in line
