"""The option that an error is about, and places that are missing."""

from pathlib import Path

import pytest

from jaxforget.config import check_places, config_from, naming_options
from jaxforget.config.places import option_of
from jaxforget.errors import UserError

CONFIG = config_from(
    {
        "out": "runs/x",
        "model": {"folder": "runs/llama/", "reinforced": "runs/llama/more"},
        "corpus": {"path": "texts"},
        "retain": {"path": "wiki"},
        "evals": {"compare": {"other": "owner/name"}, "probes": "text"},
    }
)


@pytest.mark.parametrize(
    ("fault", "option"),
    [
        ("texts: no such file", "corpus.path"),
        ("texts/a.txt: not UTF-8", "corpus.path"),
        ("text: no such file", "evals.probes"),
        ("textures/a: no such file", None),
        ("runs/llama/config.json: no such file", "model.folder"),
        ("runs/llama/more/config.json: no such file", "model.reinforced"),
        ("tfds:wiki[train]:3: no field", "retain.path"),
        ("owner/name: no such folder", "evals.compare.other"),
        ("runs/x/manifest.json: not JSON", None),
        ("corpus.path=texts: read already", None),
    ],
)
def test_the_longest_place_that_a_fault_begins_with(fault, option):
    assert option_of(fault, CONFIG) == option


def test_a_fault_keeps_its_kind_and_others_pass():
    class Special(UserError):
        pass

    with pytest.raises(Special, match=r"^corpus\.path: texts: empty$"), naming_options(CONFIG):
        raise Special("texts: empty")
    with pytest.raises(UserError, match="^seed: odd$"), naming_options(CONFIG):
        raise UserError("seed: odd")
    with pytest.raises(OSError, match="^texts: gone$"), naming_options(CONFIG):
        raise OSError("texts: gone")


@pytest.mark.parametrize("name", ["forget", "export"])
def test_a_place_called_as_a_stage_is_no_fault_of_its_own(name):
    config = config_from({"corpus": {"path": name}})
    assert option_of(f"{name}: loss nan at step 3", config) is None
    assert option_of(f"{name}/a.txt: not UTF-8", config) is None


CHAIN = ("anchors", "prepare", "reinforce", "forget", "eval", "export", "report")
HERE = str(Path(__file__))


@pytest.mark.parametrize(
    ("words", "stages", "fault"),
    [
        (["corpus.path=/nowhere"], CHAIN, "corpus.path: /nowhere: no such file or folder; give a text"),
        (["corpus.path=nowhere"], CHAIN, "corpus.path: nowhere: no such file, folder or tensorflow-datasets data set"),
        (["model.folder=/nowhere"], ("forget",), "model.folder: /nowhere: no such folder; give one, a hub id"),
        (["evals.compare.x=/nowhere"], ("eval",), "evals.compare.x: /nowhere: no such folder"),
        (["evals.probes=/no.json"], ("eval",), "evals.probes: /no.json: no such file; give one"),
        (["retain.path=/no", "retain.rows=1", "retain.weight=1"], CHAIN, "retain.path: /no: no such file or folder"),
        (["anchors.path=/no.json"], ("anchors",), "anchors.path: /no.json: no such file"),
    ],
)
def test_a_missing_place_is_told_by_its_option(words, stages, fault):
    anchors = [] if any(word.startswith("anchors") for word in words) else [f"anchors.path={HERE}"]
    with pytest.raises(UserError) as caught:
        check_places(config_from({}, anchors + words), stages)
    assert str(caught.value).startswith(fault)


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (["corpus.path=tfds:nowhere"], CHAIN),
        (["model.folder=owner/name", "evals.compare.x=gs://bucket/x"], CHAIN),
        (["corpus.path=/nowhere"], ("anchors", "forget", "eval", "export", "report")),
        (["retain.path=/nowhere"], CHAIN),
        (["evals.probes=/nowhere"], ("anchors", "prepare", "reinforce", "export", "report")),
        (["evals.muse=/nowhere"], CHAIN),
    ],
)
def test_a_place_that_nothing_reads_may_be_missing(words, stages):
    check_places(config_from({}, [f"anchors.path={HERE}", *words]), stages)


@pytest.mark.parametrize("option", ["corpus.path", "anchors.path", "model.folder", "evals.probes"])
def test_a_loop_of_links_is_told(option, tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    anchors = [] if option == "anchors.path" else [f"anchors.path={HERE}"]
    with pytest.raises(UserError, match=f"^{option}: {loop}: a link to nothing; give the file or folder itself$"):
        check_places(config_from({}, [*anchors, f"{option}={loop}"]), CHAIN)


def test_a_file_in_place_of_a_folder_is_told_as_one(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{}")
    for name in ("model.folder", "evals.compare.other"):
        with pytest.raises(UserError, match=f"^{name}: {path}: is a file; give the model's folder"):
            check_places(config_from({}, [f"{name}={path}"]), CHAIN)
