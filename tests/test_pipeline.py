"""Stages that run again when an input changes."""

import dataclasses
import json
import os
import re
import shutil

import pytest

from jaxforget import pipeline
from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.files import write_text
from jaxforget.pipeline import run_chain
from tests.stubbed_chain import (
    AFTER_FORGET,
    AFTER_PREPARE,
    AFTER_REINFORCE,
    AFTER_TRANSLATION,
    ALL,
    FOUND,
    FOUND_ALL,
    RETAIN,
)
from tests.tiny_run import settings


def test_a_second_run_does_nothing(stubbed):
    assert stubbed()[0] == ALL
    worked, said = stubbed()
    assert worked == []
    assert said[:6] == [f"stage {number} of 7, {name}: up to date" for number, name in enumerate(ALL, 1)]


def test_touching_without_changing_does_nothing(stubbed):
    stubbed()
    for path in stubbed.world.rglob("*"):
        os.utime(path, ns=(1, 1))
    assert stubbed()[0] == []


# The reinforced model reads the original text only, so another dictionary or text to keep does not change it.


@pytest.mark.parametrize(
    ("sections", "reran"),
    [
        ({"seed": 1}, AFTER_PREPARE),
        ({"anchors": {"match": "longest"}}, AFTER_TRANSLATION),
        ({"anchors": {"draw": "per_key"}}, AFTER_TRANSLATION),
        ({"anchors": {"filter": False}}, ["anchors", *AFTER_TRANSLATION]),
        ({"blocks": {"length": 16}}, AFTER_PREPARE),
        ({"blocks": {"holdout": 0.1}}, AFTER_PREPARE),
        ({"blocks": {"mode": "paper"}}, AFTER_PREPARE),
        ({"corpus": {"field": "body"}}, AFTER_PREPARE),
        ({"retain": RETAIN}, AFTER_TRANSLATION),
        ({"model": {"dtype": "bfloat16"}}, AFTER_REINFORCE),
        ({"reinforce": {"learning_rate": 1e-5}}, AFTER_REINFORCE),
        ({"reinforce": {"max_steps": 5}}, AFTER_REINFORCE),
        ({"reinforce": {"clip_norm": 1.0}}, AFTER_REINFORCE),
        ({"forget": {"learning_rate": 1e-5}}, AFTER_FORGET),
        ({"forget": {"batch": 16}}, AFTER_FORGET),
        ({"forget": {"select": "retained"}}, AFTER_FORGET),
        ({"targets": {"alpha": 4.0}}, AFTER_FORGET),
        ({"method": "whp_soft"}, AFTER_FORGET),
        ({"evals": {"completion_tokens": 5}}, ["eval"]),
        ({"evals": {"heldout_blocks": 5}}, ["eval"]),
        ({"evals": {"prompts": None}}, ["eval"]),
        ({"evals": {"compare": {"other": "WORLD/control"}}}, ["eval"]),
        ({"model": {"control": "WORLD/control"}}, ["eval"]),
        ({"reinforce": {"weights": "int8-delta"}}, AFTER_FORGET),
        ({"forget": {"weights": "lora"}, "lora": {"rank": 4}}, AFTER_FORGET),
        ({"lora": {"rank": 4, "alpha": 3.0}}, []),
        ({"anchors": {"min_count": 9, "calls": 3, "language": "de"}}, []),
        ({"endpoint": {"model": "m", "retries": 1}}, []),
        ({"evals": {"passages": 9, "relearn_steps": 2, "grader": "endpoint"}}, []),
        ({"export": {"dtype": "bfloat16"}}, ["export"]),
        ({"export": {"shard_gigabytes": 1.0}}, ["export"]),
        # Layout options change no result:
        ({"mesh": {"data": 2, "fsdp": 2, "tensor": 2}}, []),
        ({"targets": {"tile": 32}}, []),
        ({"targets": {"cache": True}}, []),
        ({"model": {"remat": "full"}}, []),
        ({"model": {"attention": "plain"}}, []),
        ({"reinforce": {"batch": 8, "accumulate": 1}, "mesh": {"tensor": 8}}, []),
        ({"forget": {"accumulate": 2}, "mesh": {"tensor": 8}}, []),
        ({"evals": {"batch": 16}}, []),
        ({"evals": {"every": 3}}, []),
        ({"checkpoints": {"every": 3, "keep": 1}}, []),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_an_option_reruns_exactly_what_depends_on_it(sections, reran, stubbed):
    def placed(value):
        if isinstance(value, dict):
            return {key: placed(item) for key, item in value.items()}
        return value.replace("WORLD", str(stubbed.world)) if isinstance(value, str) else value

    sections = placed(sections)
    assert stubbed()[0] == ALL
    worked, said = stubbed(**sections)
    assert worked == reran
    if reran:
        first = next(line for line in said if " again: " in line)
        assert first.startswith(f"stage {ALL.index(reran[0]) + 1} of 7, {reran[0]} again: ")
        (section, value), *_ = sections.items()
        names = {f"{section}.{key}" for key in value} if isinstance(value, dict) else {section}
        # A model in the tables is an input under its own name.
        assert names & set(re.findall(r"[\w.]+", first)) or re.search("model (other|control)", first), first
    assert stubbed(**sections)[0] == []


@pytest.mark.parametrize(
    ("file", "reran", "told"),
    [
        ("target/3.txt", AFTER_PREPARE, "prepare again: corpus.path changed"),
        ("anchors.json", ["anchors", *AFTER_TRANSLATION], "anchors again: anchors.path changed"),
        ("base/model.safetensors", AFTER_REINFORCE, "reinforce again: model.folder changed"),
        ("probes.json", ["eval"], "eval again: evals.probes changed"),
        ("prompts.json", ["eval"], "eval again: evals.prompts changed"),
        ("heldout/a.txt", ["eval"], "eval again: evals.heldout changed"),
        ("retain/0.md", [], ""),
        ("target/notes.pdf", [], ""),
        ("base/README.md", [], ""),
        ("base/pytorch_model.bin", [], ""),
        ("base/LICENSE", ["export"], "export again: tokenizer and licence changed"),
    ],
)
def test_a_file_reruns_exactly_what_reads_it(file, reran, told, stubbed):
    stubbed()
    path = stubbed.world / file
    old = path.read_bytes() if path.exists() else b""
    # Content that stays valid: JSON with a blank, weights with one other bit in their last number, text with a word.
    path.write_bytes(old[:-1] + bytes([old[-1] ^ 1]) if file.endswith(".safetensors") else old + b" ")
    worked, said = stubbed()
    assert worked == reran
    assert told in "\n".join(said)
    assert stubbed()[0] == []


def test_the_content_of_multiple_choice_reruns_the_evaluation(stubbed):
    path = stubbed.world / "choices.jsonl"
    path.write_text(json.dumps({"context": "Zorvath met", "choices": ["Quillon", "John"], "answer": 0}))
    stubbed(evals={"choices": str(path)})
    path.write_text(path.read_text() + " ")
    worked, said = stubbed(evals={"choices": str(path)})
    assert worked == ["eval"]
    assert "eval again: evals.choices changed" in "\n".join(said)
    assert stubbed(evals={"choices": str(path)})[0] == []


def test_anchors_that_are_found_come_behind_the_model_that_helps_to_find_them(stubbed):
    assert stubbed(**FOUND)[0] == FOUND_ALL
    assert stubbed(**FOUND)[0] == []


@pytest.mark.parametrize(
    ("sections", "reran"),
    [
        ({"anchors": {"min_count": 9}}, ["anchors", "prepare", "forget", "eval", "export"]),
        ({"anchors": {"sample": 99}}, ["anchors", "prepare", "forget", "eval", "export"]),
        ({"anchors": {"filter": False}}, ["prepare", "forget", "eval", "export"]),
        ({"anchors": {"draw": "per_key"}}, ["prepare", "forget", "eval", "export"]),
        ({"reinforce": {"max_steps": 9}}, FOUND_ALL[1:]),
        ({"blocks": {"length": 16}}, FOUND_ALL),
        ({"seed": 4}, FOUND_ALL),
        ({"forget": {"batch": 16}}, ["forget", "eval", "export"]),
        ({"anchors": {"extractor": "statistics", "sample": 5}}, ["anchors", "prepare", "forget", "eval", "export"]),
    ],
    ids=json.dumps,
)
def test_an_option_reruns_what_depends_on_it_where_anchors_are_found(sections, reran, stubbed):
    stubbed(**FOUND)
    laid = {**sections, "anchors": {**sections.get("anchors", {}), "path": None}}
    assert stubbed(**laid)[0] == reran
    assert stubbed(**laid)[0] == []


def test_a_reinforced_model_that_is_given_needs_no_blocks_to_find_anchors(stubbed):
    given = {"model": {"reinforced": str(stubbed.world / "control")}}
    assert stubbed(**FOUND, **given)[0] == FOUND_ALL[1:]


def test_finding_anchors_brings_what_it_needs(stubbed, tiny_world, tmp_path):
    values = settings(stubbed.world, tmp_path / "run", **FOUND)
    done = run_chain(config_from(values), ("anchors",), again=True)
    assert list(done.manifest._values["stages"]) == ["text", "reinforce", "anchors"]


def test_a_reviewed_dictionary_is_translated_anew(stubbed):
    stubbed(**FOUND)
    path = stubbed.run / "anchors.json"
    path.write_text(path.read_text() + " ")
    worked, said = stubbed(**FOUND)
    assert worked == ["prepare", "forget", "eval", "export"]
    assert "stage 4 of 8, prepare again: anchors.json changed" in said


def test_the_best_checkpoint_depends_on_the_questions(stubbed):
    select = {"forget": {"select": "familiarity"}}
    assert stubbed(**select)[0] == ALL
    path = stubbed.world / "probes.json"
    path.write_text(path.read_text() + " ")
    assert stubbed(**select)[0] == AFTER_FORGET
    assert stubbed(**select, evals={"every": 1})[0] == AFTER_FORGET
    path = stubbed.world / "prompts.json"
    path.write_text(path.read_text() + " ")
    assert stubbed(**select, evals={"every": 1})[0] == ["eval"], "prompts select no checkpoint"


@pytest.mark.parametrize(
    ("output", "stage"),
    [
        ("anchors.json", "anchors"),
        ("blocks", "prepare"),
        ("reinforced", "reinforce"),
        ("unlearned", "forget"),
        ("evals/passage.json", "eval"),
        ("export", "export"),
    ],
)
def test_an_output_that_is_gone_is_made_again(output, stage, stubbed):
    stubbed()
    path = stubbed.run / output
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    worked, said = stubbed()
    # Its inputs are the same, so what was made from it still holds.
    assert worked == [stage]
    assert f"stage {ALL.index(stage) + 1} of 7, {stage} again: its output is gone or damaged" in said


@pytest.mark.parametrize(
    ("file", "stage"), [("blocks/target/blocks.json", "prepare"), ("evals/rows.json", "eval"), ("export/b", "export")]
)
def test_an_output_of_which_a_file_is_gone_or_cut_is_made_again(file, stage, stubbed, monkeypatch):
    def fuller(one):
        def work(run, mark):
            one.work(run, mark)
            write_text(stubbed.run / file, mark)

        return dataclasses.replace(one, work=work) if one.name == stage else one

    monkeypatch.setattr(pipeline, "STAGES", tuple(fuller(one) for one in pipeline.STAGES))
    stubbed()
    assert stubbed()[0] == []
    whole = (stubbed.run / file).read_bytes()
    for content in (whole[:5], None):
        (stubbed.run / file).unlink() if content is None else (stubbed.run / file).write_bytes(content)
        assert stubbed()[0] == [stage]
        assert (stubbed.run / file).read_bytes() == whole


def test_a_trained_model_is_made_again_only_on_request(stubbed):
    stubbed()
    for folder in ("reinforced", "unlearned"):
        path = stubbed.run / folder / "config.json"
        whole = path.read_bytes()
        path.write_bytes(whole[:5])
        with pytest.raises(UserError, match=f"{folder}/config.json: is gone or damaged; remove .*{folder}, and the"):
            stubbed()
        path.write_bytes(whole)


@pytest.mark.parametrize(
    ("file", "option", "whole"),
    [
        ("blocks/target/blocks.json", {"reinforce": {"learning_rate": 1e-4}}, "blocks/target"),
        ("reinforced/config.json", {"forget": {"learning_rate": 1e-4}}, "reinforced"),
        ("unlearned/config.json", {"evals": {"completion_tokens": 9}}, "unlearned"),
        ("evals/summary.json", {}, "evals/summary.json"),
    ],
)
def test_a_damaged_output_is_named_by_the_stage_that_would_read_it(file, option, whole, stubbed):
    stubbed()
    path = stubbed.run / file
    content, times = path.read_bytes(), path.stat()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(UserError, match=f"{file}: is damaged: .*remove .*{whole}, and the same command"):
        stubbed(**option)
    path = stubbed.run / whole
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    stubbed(**option)
    assert (stubbed.run / file).is_file()
