"""The record of a run, and the detection of changed inputs."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from jaxforget import manifest
from jaxforget.errors import UserError
from jaxforget.manifest import Manifest, changed, fingerprint

ROOT = Path(__file__).parents[1]


def test_a_runs_manifest_says_what_it_was_made_of(tiny_run, tiny_world):
    noted = json.loads((tiny_run / "manifest.json").read_text())
    assert noted["versions"]["python"] == sys.version.split()[0]
    assert noted["versions"]["jax"] == version("jax")
    assert noted["versions"]["transformers"] == version("transformers")
    assert noted["devices"] == {"count": 8, "kind": jax.devices()[0].device_kind, "processes": 1}
    assert list(noted["stages"]) == ["anchors", "prepare", "reinforce", "forget", "eval", "export", "report"]
    for name, stage in noted["stages"].items():
        assert stage["seconds"] >= 0, name
        assert stage["fingerprint"] == fingerprint(stage["inputs"])
        assert stage["finished"] >= noted["started"]
        assert stage["devices"] == noted["devices"]
    for name in ("target/0.txt", "anchors.json", "base/model.safetensors", "probes.json", "heldout/a.txt"):
        path = tiny_world / name
        assert len(noted["hashes"][str(path)]["sha256"]) == 64
        assert noted["hashes"][str(path)]["bytes"] == path.stat().st_size


def test_git_state_is_this_sources(tmp_path, monkeypatch):
    found = manifest._git_state()
    if (ROOT / ".git").exists():
        asked = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        head = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
        assert found["commit"] == head
        assert found["changed"] in (True, False)
    else:
        assert found is None
    # The package may be installed inside the checkout of another project, whose commit does not count.
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    package = tmp_path / "site-packages" / "jaxforget"
    package.mkdir(parents=True)
    monkeypatch.setattr(sys.modules["jaxforget"], "__file__", str(package / "__init__.py"))
    assert manifest._git_state() is None


def test_a_stage_keeps_the_devices_it_ran_on(tmp_path, monkeypatch):
    first = Manifest(tmp_path)
    first.describe(["run"])
    first.record("prepare", {}, 1.0)
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(device_kind="TPU v4")] * 4)
    again = Manifest(tmp_path)
    again.describe(["run"])
    again.record("forget", {}, 1.0)
    assert again.stage("prepare")["devices"]["kind"] == "cpu"
    alone = Manifest(tmp_path)  # like the stage `report`, which uses no devices
    alone.record("report", {}, 1.0)
    assert alone.stage("report")["devices"] is None
    assert again.stage("forget")["devices"] == {"count": 4, "kind": "TPU v4", "processes": 1}


def test_stages_are_recorded_and_struck(tmp_path):
    first = Manifest(tmp_path)
    assert first.stage("prepare") is None
    first.record("prepare", {"seed": "1"}, 2.3456)
    again = Manifest(tmp_path)
    assert again.stage("prepare")["inputs"] == {"seed": "1"}
    assert again.stage("prepare")["seconds"] == 2.346
    again.strike("prepare")
    assert Manifest(tmp_path).stage("prepare") is None
    again.strike("prepare")


def test_an_unfinished_stage_is_recorded_until_it_finishes_or_is_abandoned(tmp_path):
    manifest = Manifest(tmp_path)
    assert manifest.begun("forget") is None
    for end in (lambda: manifest.record("forget", {"seed": "1"}, 1.0), lambda: manifest.abandon("forget")):
        manifest.begin("forget", {"seed": "1"}, {"seed": "1", "out": "'x'"})
        assert Manifest(tmp_path).begun("forget") == {"inputs": {"seed": "1"}, "options": {"seed": "1", "out": "'x'"}}
        end()
        assert Manifest(tmp_path).begun("forget") is None


@pytest.mark.parametrize("content", ["[]", "3", '{"stages"', '{"stages": []}', '{"begun": []}', '{"hashes": "x"}'])
def test_another_file_of_that_name_is_refused(content, tmp_path):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(
        UserError,
        match=r"manifest\.json: .*(not a run's manifest|not JSON).*; delete it, and `jaxforget run .* --force`",
    ):
        Manifest(tmp_path)


def test_fingerprint_depends_on_names_and_values_but_not_on_order():
    assert fingerprint({"a": "1", "b": "2"}) == fingerprint({"b": "2", "a": "1"})
    assert len({fingerprint(x) for x in ({"a": "1"}, {"a": "2"}, {"b": "1"}, {}, {"a": "1", "b": ""})}) == 5


def test_changed_names_what_differs():
    assert changed({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9", "d": "4"}) == ["b", "c", "d"]
    assert changed({"a": "1"}, {"a": "1"}) == []


def test_hash_of_a_folder(tmp_path):
    folder = tmp_path / "text"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "b.txt").write_text("b")
    run = Manifest(tmp_path)
    before = run.hash_path(folder)
    for hidden in (folder / ".hidden", folder / ".git" / "HEAD"):
        hidden.parent.mkdir(exist_ok=True)
        hidden.write_text("x")
    assert run.hash_path(folder) == before
    (folder / "broken").symlink_to("nowhere")
    assert run.hash_path(folder) == before
    (folder / "a.txt").rename(folder / "c.txt")
    assert run.hash_path(folder) != before, "the order of documents is that of their names"
    (folder / "c.txt").rename(folder / "a.txt")
    assert run.hash_path(folder) == before
    (folder / "deep" / "b.txt").write_text("B")
    assert run.hash_path(folder) != before
    assert run.hash_path(folder, lambda name: name.suffix == ".md") == run.hash_path(tmp_path / "text" / "none")


def test_a_file_is_read_again_only_when_its_size_or_time_changed(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.write_text("content")
    run = Manifest(tmp_path)
    first = run.hash_path(path)
    reads = []
    ordinary = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args, **more: reads.append(self) or ordinary(self, *args, **more))
    assert run.hash_path(path) == first
    assert not reads
    os.utime(path, ns=(1, 1))
    assert run.hash_path(path) == first
    assert reads == [path]
    run.record("anchors", {}, 0)
    reads.clear()
    assert Manifest(tmp_path).hash_path(path) == first
    assert path not in reads, "what was hashed is remembered between commands"


def test_a_folders_hash_follows_links_to_folders(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "circle").symlink_to(tmp_path / "data")
    hashes = set()
    for text in ("one", "other"):
        (tmp_path / "elsewhere" / "a.json").write_text(text)
        hashes.add(Manifest(tmp_path).hash_path(tmp_path / "data"))
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda path: path.write_bytes(b"\x00\x01\x03"), "is damaged: its content is not what was written"),
        (lambda path: path.write_bytes(b"\x00\x01"), "is damaged: 2 bytes, where 3 were written"),
        (Path.unlink, "is gone"),
    ],
    ids=["flipped", "cut", "removed"],
)
def test_a_damaged_output_is_named_though_its_time_is_that_of_writing(change, told, tmp_path):
    path = tmp_path / "unlearned" / "model.safetensors"
    path.parent.mkdir()
    path.write_bytes(b"\x00\x01\x02")
    Manifest(tmp_path).record("forget", {}, 1.0, outputs=["unlearned"])
    Manifest(tmp_path).verify(["unlearned"])
    times = path.stat()
    change(path)
    if path.exists():
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=f"^{path}: {told}.*remove {path.parent}, and the same command makes it"):
        Manifest(tmp_path).verify(["unlearned"])
    Manifest(tmp_path).verify(["evals"])
    run = Manifest(tmp_path)
    run.unseal(["unlearned"])
    run.verify(["unlearned"])
