"""Folders that a run may fill, and those that it refuses."""

from jaxforget.config import config_from, to_yaml
from jaxforget.errors import UserError
from jaxforget.stages.folder import check_folder, remove_leftovers
from jaxforget.stages.run import Run


def told(out, force=False, **sections) -> str | None:
    """The error about `out`, or None."""
    try:
        check_folder(Run(config_from({"out": str(out), **sections})), force=force)
    except UserError as error:
        return str(error)
    return None


def test_a_new_or_empty_folder_is_fine(tmp_path):
    assert told(tmp_path / "new" / "deeper") is None
    assert told(tmp_path) is None
    for name in (".lock", ".nfs0001", ".manifest.json.x8s", ".DS_Store"):
        (tmp_path / name).write_text("")
    (tmp_path / "lost+found").mkdir()
    assert told(tmp_path) is None
    assert not (tmp_path / "new").exists(), "a check makes nothing"


def test_a_folder_with_other_files_is_refused_unless_forced(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert told(tmp_path) == (
        f"out={tmp_path}: holds files that no run wrote (thesis.tex); name an empty or a new folder, or add --force"
    )
    assert told(tmp_path, force=True) is None
    assert "holds files that no run wrote" in told("/")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".profile").write_text("")
    assert "holds files that no run wrote (.profile)" in told(tmp_path / "home")
    (tmp_path / "manifest.json").write_text("{}")
    assert told(tmp_path) is None


def test_a_folder_inside_another_run_is_refused_unless_forced(tmp_path):
    for name in ("manifest.json", "config.yaml"):
        (tmp_path / name).write_text("{}")
    inside = tmp_path / "unlearned" / "x"
    assert f"lies inside the run {tmp_path}" in told(inside)
    (tmp_path.parent / "link").symlink_to(tmp_path)
    assert "lies inside the run" in told(tmp_path.parent / "link" / "x")
    assert told(inside, force=True) is None


def test_links_and_files(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "is a link to nothing" in told(tmp_path / "loop")
    (tmp_path / "file").write_text("mine")
    assert "is a file" in told(tmp_path / "file")
    assert f"{tmp_path / 'file'} is a file" in told(tmp_path / "file" / "run")
    assert f"{tmp_path / 'loop'} is a link to nothing" in told(tmp_path / "loop" / "run")
    assert told(tmp_path / "new", corpus={"path": str(tmp_path / "loop")}) is None, "told when the corpus is read"


def test_a_configuration_that_the_run_would_write_again_is_fine(tmp_path):
    config = config_from({"out": str(tmp_path), "seed": 3})
    (tmp_path / "config.yaml").write_text("# mine\n" + to_yaml(config))
    assert told(tmp_path, seed=3) is None
    assert "no run wrote it" in told(tmp_path, seed=4)


def test_inputs_and_outputs_do_not_overlap(tmp_path):
    text = tmp_path / "text"
    text.mkdir()
    assert f"lies inside corpus.path={text}" in told(text / "run", corpus={"path": str(text)})
    (tmp_path / "anchors.json").write_text("{}")
    assert "would write over it" in told(tmp_path, force=True, anchors={"path": str(tmp_path / "anchors.json")})


def test_temporary_files_of_a_killed_command_are_removed(tmp_path):
    (tmp_path / "evals" / "rows").mkdir(parents=True)
    left = [tmp_path / ".manifest.json.ab_1cd2e", tmp_path / "evals" / "rows" / ".base.json.abcdefgh"]
    stay = [tmp_path / ".lock", tmp_path / "manifest.json", tmp_path / ".env", tmp_path / "evals" / "curve.json"]
    for path in left + stay:
        path.write_text("")
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in stay)
