"""Steps by epochs, and labels that are computed once."""

import json
import shutil

import numpy as np

import jaxforget
from jaxforget.config import config_from
from jaxforget.corpus.batches import open_blocks
from jaxforget.pipeline import run_chain
from jaxforget.stages.fit import count_steps
from jaxforget.stages.labels import label_share
from jaxforget.stages.run import Run
from tests.tiny_run import settings


def test_epochs_become_steps(tiny_world, tiny_run):
    run = Run(config_from(settings(tiny_world, tiny_run)))
    blocks = json.loads((run.blocks / "blocks.json").read_text())["splits"]["train"]
    options = {"max_steps": None, "batch": 16}
    for epochs in (0.01, 1.0, 2.5):
        forget = config_from({"forget": {**options, "epochs": epochs}}).forget
        assert count_steps(blocks, forget) == max(1, round(epochs * -(-blocks // 16)))
    assert count_steps(blocks, config_from({"forget": {"max_steps": 7}}).forget) == 7


def test_cached_labels_are_those_of_every_block(tiny_world, tiny_run, tmp_path):
    given = {"reinforced": str(tiny_run / "reinforced")}
    values = settings(tiny_world, tmp_path, targets={"cache": True}, model=given, forget={"max_steps": 1})
    run = run_chain(config_from(values), ("anchors", "prepare", "reinforce", "forget"))
    labels = np.load(run.folder / "labels" / "train.npy")
    base, reinforced = jaxforget.load(run.base), jaxforget.load(run.reinforced)
    records = open_blocks(run.blocks, "train")
    assert len(labels) == len(records)
    names = ("translated", "position_map", "suppress_ids", "suppress_from")
    for number in (0, 1, len(records) - 1):
        record = records[number]
        block = type("Translation", (), {name: np.asarray(record[name]) for name in names})
        expected = jaxforget.generic_labels(base, reinforced, record["tokens"], block)
        np.testing.assert_array_equal(labels[number, : len(expected)], expected)
        assert (labels[number, len(expected) :] == -1).all()


def test_no_target_names_the_text_where_all_anchors_are_suppressed(tiny_world, tiny_run, tmp_path):
    """The paper suppresses translations already seen; targets.suppress=all the first tokens of all anchors."""
    shares = {}
    for suppress in ("seen", "all"):
        given = {"reinforced": str(tiny_run / "reinforced")}
        sections = {"targets": {"cache": True, "suppress": suppress}, "model": given, "forget": {"max_steps": 1}}
        values = settings(tiny_world, tmp_path / suppress, **sections)
        run = run_chain(config_from(values), ("anchors", "prepare", "reinforce", "forget"))
        summary = json.loads((run.blocks / "blocks.json").read_text())
        labels = np.load(run.folder / "labels" / "train.npy")
        shares[suppress] = label_share(labels, summary)
        told = json.loads((run.evals / "labels.json").read_text())
        assert told["labels"] > 0
    assert shares["seen"][0] > 0, "without it some labels begin an anchor"
    assert shares["all"][0] == 0
    assert shares["all"][1] == shares["seen"][1] == (labels >= 0).sum()


def test_labels_of_another_method_are_not_taken(tiny_world, tiny_run, tmp_path):
    """Labels of whp may begin a term of the text; those of whp_flat never do."""
    folder, shares = tmp_path / "run", {}
    for method in ("whp", "whp_flat"):
        given = {"reinforced": str(tiny_run / "reinforced")}
        sections = {"method": method, "targets": {"cache": True}, "model": given, "forget": {"max_steps": 1}}
        config = config_from(settings(tiny_world, folder, **sections))
        run = run_chain(config, ("anchors", "prepare", "reinforce", "forget"), again=True)
        terms = json.loads((run.blocks / "blocks.json").read_text())["term_tokens"]
        shares[method] = int(np.isin(np.load(folder / "labels" / "train.npy"), terms).sum())
    assert shares["whp"] > 0
    assert shares["whp_flat"] == 0


def test_damaged_labels_are_computed_again(tiny_world, tiny_run, tmp_path, capsys):
    folder = shutil.copytree(tiny_run, tmp_path / "run")
    config = config_from(settings(tiny_world, folder, targets={"cache": True}))
    shutil.rmtree(folder / "unlearned")
    run_chain(config, ("forget",), again=True)
    labels = folder / "labels" / "train.npy"
    before = labels.read_bytes()
    labels.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    shutil.rmtree(folder / "unlearned")
    run_chain(config, ("forget",), again=True)
    assert f"warning: {labels}: is damaged" in capsys.readouterr().err
    assert labels.read_bytes() == before
