"""Files and messages of the stages `anchors` and `prepare`."""

import json

import pytest

from jaxforget.config import config_from
from jaxforget.corpus.batches import open_blocks
from jaxforget.errors import UserError
from jaxforget.stages import prepare as corpus
from jaxforget.stages.anchors import anchors
from jaxforget.stages.run import Run
from tests.tiny_run import ANCHORS, settings


def test_anchors_are_filtered_and_saved(tiny_world, tmp_path, capsys):
    run = Run(config_from(settings(tiny_world, tmp_path)))
    anchors(run)
    assert json.loads(run.anchors.read_text()) == {k: v for k, v in ANCHORS.items() if k != "Zorvath's"}
    assert capsys.readouterr().err == "  6 anchors, 1 dropped by the filter\n"
    anchors(Run(config_from(settings(tiny_world, tmp_path, anchors={"filter": False}))))
    assert json.loads(run.anchors.read_text()) == ANCHORS
    assert capsys.readouterr().err.endswith("\n  7 anchors\n")


def test_prepare_says_what_it_found(tiny_world, tmp_path, capsys):
    retain = {"path": str(tiny_world / "retain"), "rows": 8, "weight": 1.0}
    run = Run(config_from(settings(tiny_world, tmp_path, retain=retain)))
    anchors(run)
    capsys.readouterr()
    corpus.prepare(run)
    said = capsys.readouterr().err.splitlines()
    told = json.loads((run.blocks / "blocks.json").read_text())
    splits = told["splits"]
    blocks = f"{splits['train']} blocks and {splits['validation']} held out"
    missed = told["anchors"]["missed"]
    assert 0 < sum(missed.values()) < 0.1 * told["anchors"]["occurrences"], (
        "the ends of blocks of 32 tokens cut some names"
    )
    assert said == [
        f"  target: 6 documents, {told['tokens']:,} tokens, {blocks}",
        f"  {told['anchors']['occurrences']:,} occurrences of anchors found, {sum(missed.values()):,} missed "
        f"(cut by a block's end or tokenised differently): {', '.join(f'{key} {n}' for key, n in missed.items())}",
        f"  {told['trained']:,} positions with a label",
        f"  anchors   6 with {told['anchors']['occurrences']} occurrences in the target",
        f"  coverage  {told['anchors']['coverage']:.0%} of positions are at most 64 tokens after an anchor",
        "  never     1 do not occur: Nevermentioned",
        "  split     1 translations fit the tokenizer badly: Gloomwater > Lakeside: 7 tokens",
        *[line for line in said if line.startswith("  retain: 3 documents")],
    ]
    assert json.loads((run.folder / "diagnosis.json").read_text())["never"] == ["Nevermentioned"]
    assert splits["validation"] == round(0.05 * sum(splits.values()))
    assert {record["retain"] for record in open_blocks(run.retain_blocks, "train")} == {1}
    assert {record["retain"] for record in open_blocks(run.blocks, "train")} == {0}


def test_without_anchors_text_stays_as_it_is(tiny_world, tmp_path):
    run = Run(config_from(settings(tiny_world, tmp_path, anchors={"path": None, "extractor": "none"})))
    corpus.prepare(run)
    for record in open_blocks(run.blocks, "train"):
        assert (record["tokens"] == record["translated"]).all()
        assert not len(record["suppress_ids"])


def test_a_tokenizer_that_does_not_fit_is_told_before_anything_is_written(tiny_world, tmp_path):
    from tests.tiny_run import save_llama

    small = tmp_path / "small"
    save_llama(small, 50, seed=0)
    for file in (tiny_world / "base").glob("tokenizer*"):
        (small / file.name).write_bytes(file.read_bytes())
    run = Run(
        config_from(
            settings(
                tiny_world, tmp_path / "run", model={"folder": str(small)}, anchors={"path": None, "extractor": "none"}
            )
        )
    )
    with pytest.raises(UserError, match="beyond the model's vocab_size 50"):
        corpus.prepare(run)
    assert not run.blocks.exists()
