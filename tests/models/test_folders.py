"""Sources of a model: a folder, the hub, a bucket; no test uses the network."""

import fnmatch
import types

import fsspec
import huggingface_hub
import pytest
from huggingface_hub import errors

from jaxforget.errors import UserError
from jaxforget.models.folders import WANTED, read_config, resolve_folder
from jaxforget.models.load import load_params
from tests.models.tiny import save_tiny


def fault(place):
    with pytest.raises(UserError) as caught:
        resolve_folder(place)
    assert "\n" not in str(caught.value)
    assert str(place) in str(caught.value)
    return str(caught.value)


def test_a_local_folder_is_itself(tmp_path):
    assert resolve_folder(tmp_path) == tmp_path
    assert resolve_folder(str(tmp_path)) == tmp_path


def test_a_local_folder_goes_before_a_hub_id(tmp_path, monkeypatch):
    (tmp_path / "owner/name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("owner/name").resolve() == tmp_path / "owner/name"


@pytest.mark.parametrize("place", ["/no/such/folder", "nothing", "./a/b", "a/b/c"])
def test_no_such_folder(place):
    assert "no such folder" in fault(place)


def test_a_file_is_not_a_folder(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    assert "is a file" in fault(path)


def test_a_hub_id_is_fetched_without_pickles(tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **named: asked.update(named, name=name) or str(tmp_path)
    )
    assert resolve_folder("owner/name") == tmp_path
    assert asked["name"] == "owner/name"
    files = {
        "config.json": True,
        "model-00001-of-00002.safetensors": True,
        "model.safetensors.index.json": True,
        "tokenizer.model": True,
        "pytorch_model.bin": False,
        "consolidated.00.pth": False,
        "consolidated.safetensors": False,
        "flax_model.msgpack": False,
    }
    for name, wanted in files.items():
        assert any(fnmatch.fnmatch(name, pattern) for pattern in asked["allow_patterns"]) == wanted, name


def response(status):
    return types.SimpleNamespace(status_code=status, headers={}, request=None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.RepositoryNotFoundError("404", response=response(404)), "nor repository on the hub"),
        (errors.GatedRepoError("403", response=response(403)), "accept its licence"),
        (errors.HfHubHTTPError("500 down", response=response(500)), "could not be reached"),
        (errors.LocalEntryNotFoundError("no\nnetwork"), "could not be reached"),
        (errors.OfflineModeIsEnabled("offline"), "could not be reached"),
        (errors.RevisionNotFoundError("404", response=response(404)), "has no revision"),
        (ConnectionError("refused"), "could not be reached"),
        (Exception("the transport's own"), "could not be reached"),
    ],
)
def test_the_hubs_refusals_are_one_line(monkeypatch, error, said):
    def refuse(*given, **named):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    assert said in fault("owner/name")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A model in a bucket (fsspec's one in memory), and an empty cache."""
    save_tiny(tmp_path / "in")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.rm("/", recursive=True)
    system.put(str(tmp_path / "in"), "/bucket/model", recursive=True)
    system.pipe("/bucket/model/pytorch_model.bin", b"pickle")
    return system


def test_a_bucket_is_copied_once(bucket, tmp_path, monkeypatch):
    folder = resolve_folder("memory://bucket/model")
    config, _ = read_config(folder)
    load_params(folder, config, dtype="float32")
    assert folder.is_relative_to(tmp_path / "cache")
    assert not (folder / "pytorch_model.bin").exists()
    monkeypatch.setattr(type(bucket), "get_file", lambda *given, **named: pytest.fail("copied again"))
    assert resolve_folder("memory://bucket/model") == folder


def test_a_changed_bucket_is_copied_anew(bucket):
    before = resolve_folder("memory://bucket/model")
    bucket.pipe("/bucket/model/config.json", bucket.cat("/bucket/model/config.json") + b"\n")
    assert resolve_folder("memory://bucket/model") != before


def test_an_interrupted_copy_is_no_copy(bucket, tmp_path, monkeypatch):
    def fail(*given, **named):
        raise ConnectionResetError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(type(bucket), "get_file", fail)
        assert "gone" in fault("memory://bucket/model")
    assert list((tmp_path / "cache" / "jaxforget").iterdir()) == []
    resolve_folder("memory://bucket/model")


def test_faults_of_a_bucket(bucket):
    assert "no such folder" in fault("memory://bucket/other")
    bucket.pipe("/bucket/empty/notes.txt", b"x")
    assert "no config.json" in fault("memory://bucket/empty")
    assert "not an address" in fault("nonsense://bucket/model")


def test_a_missing_client_is_named(monkeypatch):
    def missing(address):
        raise ImportError("Please install gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    assert "pip install gcsfs" in fault("gs://bucket/model")


def test_patterns_name_no_pickles():
    assert not any(fnmatch.fnmatch("pytorch_model.bin", pattern) for pattern in WANTED)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        ("{", "line 1"),
        ("[1]", "holds list"),
        ('{"model_type": "gpt2"}', "model_type is 'gpt2'"),
    ],
)
def test_a_config_at_fault_is_named(tmp_path, content, said):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError) as caught:
        read_config(tmp_path)
    assert str(tmp_path / "config.json") in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_revision_is_asked_of_the_hub(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **named: asked.append((name, named["revision"])) or str(tmp_path),
    )
    for place in ("owner/name@v1.0", "owner/name@refs/pr/3", "owner/name"):
        resolve_folder(place)
    assert asked == [("owner/name", "v1.0"), ("owner/name", "refs/pr/3"), ("owner/name", None)]


@pytest.mark.parametrize("place", ["owner/name@", "owner@v1", "owner/name@v 1", "a/b/c@v1"])
def test_no_revision(place):
    assert "no such folder" in fault(place)


def test_a_folder_whose_name_looks_like_a_revision(tmp_path, monkeypatch):
    (tmp_path / "owner/name@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert resolve_folder("owner/name@v1").resolve() == tmp_path / "owner/name@v1"


def test_templates_come_from_a_bucket_too(bucket):
    bucket.pipe("/bucket/model/additional_chat_templates/tool_use.jinja", b"{{ tools }}")
    bucket.pipe("/bucket/model/checkpoint-1/model.safetensors", b"another model's")
    folder = resolve_folder("memory://bucket/model")
    assert (folder / "additional_chat_templates" / "tool_use.jinja").read_text() == "{{ tools }}"
    assert not (folder / "checkpoint-1").exists()
