"""Every option that names a place, given one that is not there or not what it takes: one line names option and place.

That no option is forgotten is tested too.
"""

import re
import shutil

import pytest

from jaxforget.config import options
from tests.cli.saying import fault
from tests.tiny_run import settings, write_config

PNG = b"\x89PNG\r\n\x1a\n\xff\xfe"  # no text, whatever its name says
# What an option names, by the words under which a command looks at it.
TEXTS = {
    "corpus.path": ("run",),
    "retain.path": ("run", "retain.weight=1", "retain.rows=8"),
    "evals.heldout": ("run",),
    "evals.nonmembers": ("eval", "suite=membership"),
    "ilu.path": ("run", "ilu.weight=1", "ilu.rows=8"),
}
MODELS = {
    "model.folder": ("run",),
    "model.control": ("run",),
    "model.reinforced": ("run",),
    "evals.compare.other": ("run",),
    "evals.forgotten.other": ("eval", "suite=forgotten"),
    "anchors.model": ("anchors", "anchors.path=null", "anchors.extractor=local"),
}
FILES = {
    "anchors.path": ("run",),
    "corpus.alternates": ("run",),
    "evals.probes": ("run",),
    "evals.prompts": ("run",),
    "evals.completion_prompts": ("eval", "suite=completion"),
    "evals.attacks": ("eval", "suite=prompting"),
}
# Files of JSON, or folders of some.
EITHER = {"evals.choices": ("eval", "suite=multiple_choice")}
FOLDERS = {
    "evals.tfds": ("eval", "suite=benchmarks"),
    "evals.muse": ("eval", "suite=muse"),
    "evals.tofu": ("eval", "suite=tofu"),
    "evals.tasks_folder": ("eval", "suite=harness", "evals.tasks=toy"),
}
KNOWN = TEXTS | MODELS | FILES | EITHER | FOLDERS

MISSING, FOLDER, EMPTY, WRONG = "nowhere/at-all", "empty", "empty.json", "picture.json"
KINDS = (MISSING, FOLDER, EMPTY, WRONG)
REMEDY = r"; (add|give|name|it names|put|remove|rename|save|run|a model folder holds|MUSE|TOFU|the folder)"
# An empty folder is one of texts or models without any; the harness has tasks of its own beside it.
FINE = {("evals.tasks_folder", FOLDER)}


def test_every_option_that_names_a_place_is_tried():
    named = {name for name, field in options() if field.metadata.get("path")} - {
        "out",
        "evals.compare",
        "evals.forgotten",
    }
    assert named | {"evals.compare.other", "evals.forgotten.other"} == set(KNOWN)


@pytest.fixture(scope="module")
def given(tiny_run, tiny_world, tmp_path_factory):
    """The configuration of a finished run of our own, and a folder of places."""
    folder = tmp_path_factory.mktemp("places")
    (folder / FOLDER).mkdir()
    (folder / EMPTY).write_text("")
    (folder / WRONG).write_bytes(PNG)
    run = shutil.copytree(tiny_run, folder / "run")
    return write_config(folder / "c.yaml", settings(tiny_world, run)), folder


@pytest.mark.parametrize(("option", "kind"), [(o, k) for o in KNOWN for k in KINDS if (o, k) not in FINE])
def test_a_place_that_will_not_do(option, kind, given, capsys):
    (command, *words), (config, folder) = KNOWN[option], given
    told = fault(capsys, command, config, f"{option}={folder / kind}", *words)
    assert f"{option}: {folder / kind}" in told or f"{option}={folder / kind}" in told
    assert re.search(REMEDY, told), told
