"""Stages that run again when an input changes; their work is replaced by one that only writes its outputs."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jaxforget import pipeline
from jaxforget.config import config_from
from jaxforget.errors import Preempted, UserError
from jaxforget.files import write_text
from jaxforget.manifest import Manifest
from jaxforget.pipeline import STAGES, run_chain, stage_seconds
from jaxforget.stages import estimate
from jaxforget.stages.run import Run
from tests.tiny_run import settings

NAMES = tuple(stage.name for stage in STAGES if stage.name != "undo")  # off by default
ALL = list(NAMES[:-1])  # the page is always made again


def chain(world: Path, out: Path, stages: tuple[str, ...] = NAMES, again: bool = True, **sections):
    return run_chain(config_from(settings(world, out, **sections)), stages, again=again)


@pytest.fixture
def stubbed(tiny_world, tmp_path, monkeypatch):
    """`go(**sections) -> (stages that worked, lines that were printed)` on a copy of the world in `tmp_path`."""
    world = shutil.copytree(tiny_world, tmp_path / "world")
    worked: list[str] = []

    def stub(stage):
        def work(run, mark):
            worked.append(stage.name)
            for path in stage.outputs(run):
                if path.is_relative_to(run.folder):
                    # The verdict at the end of a chain reads the evidence.
                    write_text(path, '{"rows": []}' if path.name == "summary.json" else mark)

        return dataclasses.replace(stage, work=work)

    monkeypatch.setattr(pipeline, "STAGES", tuple(stub(stage) for stage in STAGES))
    monkeypatch.setattr(pipeline, "TEXT", stub(pipeline.TEXT))
    said: list[str] = []
    monkeypatch.setattr("jaxforget.stages.run.Run.say", lambda self, text, **_: said.append(text))

    def go(**sections):
        worked.clear()
        said.clear()
        chain(world, tmp_path / "run", **sections)
        return [name for name in worked if name != "report"], list(said)

    go.world, go.run = world, tmp_path / "run"
    return go


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


AFTER_PREPARE = ALL[1:]
AFTER_REINFORCE = ALL[2:]
# The reinforced model reads the original text only, so another dictionary or text to keep does not change it.
AFTER_TRANSLATION = [name for name in AFTER_PREPARE if name != "reinforce"]
AFTER_FORGET = ALL[3:]
RETAIN = {"weight": 1.0, "rows": 8, "path": "WORLD/retain"}


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


FOUND = {"anchors": {"path": None}}
FOUND_ALL = ["text", "reinforce", "anchors", "prepare", "forget", "eval", "export"]


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
    assert f"stage {ALL.index(stage) + 1} of 7, {stage} again: its output is gone" in said


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


def test_a_stage_that_failed_runs_again(stubbed, monkeypatch):
    stubbed()
    working = pipeline.STAGES

    def fail(run, mark):
        raise UserError("no")

    broken = tuple(dataclasses.replace(s, work=fail) if s.name == "forget" else s for s in working)
    monkeypatch.setattr(pipeline, "STAGES", broken)
    with pytest.raises(UserError, match="no"):
        stubbed(forget={"batch": 16})
    # Back to the first configuration: the output stands, but it was in the making.
    monkeypatch.setattr(pipeline, "STAGES", working)
    assert stubbed()[0] == ["forget"]


def test_checkpoints_go_once_their_stage_is_recorded(stubbed, monkeypatch):
    kept = {stage: stubbed.run / "checkpoints" / stage / "state" for stage in ("reinforce", "forget")}
    record = Manifest.record

    def training(stage):
        def work(run, mark):
            write_text(kept[stage.name], "81 GB at 7B")
            stage.work(run, mark)

        return dataclasses.replace(stage, work=work) if stage.name in kept else stage

    def killed(self, name, inputs, seconds, **options):
        if name == "reinforce":
            raise KeyboardInterrupt
        record(self, name, inputs, seconds, **options)

    monkeypatch.setattr(pipeline, "STAGES", tuple(training(stage) for stage in pipeline.STAGES))
    monkeypatch.setattr(Manifest, "record", killed)
    with pytest.raises(KeyboardInterrupt):
        stubbed()
    assert kept["reinforce"].is_file()  # from which the next attempt goes on
    monkeypatch.setattr(Manifest, "record", record)
    stubbed()
    assert not any(path.parent.exists() for path in kept.values())
    write_text(kept["forget"], "left by a process that was killed right then")
    assert stubbed()[0] == []
    assert not kept["forget"].parent.exists()


def test_among_hosts_sigterm_between_two_stages_stops_before_the_second(stubbed, monkeypatch):
    stubbed()
    asked = iter([False, True])
    monkeypatch.setattr(pipeline, "hosts_preempted", lambda: next(asked))
    with pytest.raises(Preempted, match="reinforce: stopped by SIGTERM, not begun; run the same command"):
        stubbed(blocks={"length": 24})
    monkeypatch.setattr(pipeline, "hosts_preempted", lambda: False)
    assert stubbed(blocks={"length": 24})[0] == ALL[2:]


def test_showing_elsewhere_keeps_the_surroundings_that_are_shown(stubbed):
    stubbed()
    manifest = stubbed.run / "manifest.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(values | {"devices": {"count": 64, "kind": "TPU v4", "processes": 16}}))
    chain(stubbed.world, stubbed.run, stages=("report",))
    assert json.loads(manifest.read_text())["devices"]["count"] == 64
    stubbed()
    assert json.loads(manifest.read_text())["devices"]["count"] == 8


def test_a_given_reinforced_model_is_taken(stubbed):
    stubbed()
    given = {"model": {"reinforced": str(stubbed.world / "control")}}
    worked, said = stubbed(**given)
    assert worked == AFTER_REINFORCE
    assert "reinforce again: " in "\n".join(said)
    # Training it is then none of this run's business.
    assert stubbed(**given, reinforce={"max_steps": 9})[0] == []


def test_seconds_are_those_of_the_stages(stubbed):
    stubbed()
    run = run_chain(config_from(settings(stubbed.world, stubbed.run)), ("report",))
    assert list(stage_seconds(run)) == [*ALL, "report"]


@pytest.mark.parametrize(
    ("sections", "stage", "changed"),
    [
        ({"forget": {"learning_rate": 1e-9}}, "forget", "forget.learning_rate"),
        ({"reinforce": {"max_steps": 9}}, "reinforce", "reinforce.max_steps"),
        ({"export": {"dtype": "bfloat16"}}, "export", "export.dtype"),
        ({"blocks": {"length": 16}}, "reinforce", "blocks.length"),
    ],
    ids=json.dumps,
)
def test_a_finished_result_is_replaced_only_on_request(sections, stage, changed, stubbed):
    stubbed()
    before = {path: path.read_bytes() for path in stubbed.run.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=f"stage {stage} is finished, and {changed} changed since; add --again"):
        chain(stubbed.world, stubbed.run, again=False, **sections)
    after = {path: path.read_bytes() for path in stubbed.run.rglob("*") if path.is_file()}
    kept = {path for path in before if path.name not in ("manifest.json", ".lock", "report.html")}
    assert {path: after[path] for path in kept} == {path: before[path] for path in kept}
    assert stubbed(**sections)[0] != []


def test_results_that_nothing_replaces_need_no_request(stubbed):
    stubbed()
    chain(stubbed.world, stubbed.run, again=False)
    chain(stubbed.world, stubbed.run, again=False, evals={"completion_tokens": 5})
    shutil.rmtree(stubbed.run / "unlearned")
    chain(
        stubbed.world,
        stubbed.run,
        again=False,
        evals={"completion_tokens": 5},
        forget={"max_steps": 5},
        stages=("forget",),
    )


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        ({}, FOUND, "anchors again: anchors.path changed"),
        (FOUND, {}, "anchors again: anchors.path changed"),
        ({"retain": RETAIN | {"weight": 0.0, "rows": 0}}, {"retain": RETAIN}, "prepare again: retain.rows"),
        ({}, {"corpus": {"field": "body"}}, "prepare again: corpus.field changed"),
    ],
    ids=json.dumps,
)
def test_only_options_that_changed_are_named(first, second, told, stubbed):
    place = {"path": str(stubbed.world / "retain")}
    first, second = (
        {name: {**value, **(place if name == "retain" else {})} for name, value in sections.items()}
        for sections in (first, second)
    )
    stubbed(**first)
    assert told in "\n".join(stubbed(**second)[1])


def test_two_commands_in_one_folder(stubbed, tmp_path):
    """The second one is refused at once; the lock of a process that was killed holds nobody."""
    stubbed()
    code = (
        "import sys, time; from pathlib import Path\n"
        "from jaxforget.config import config_from; from jaxforget.stages.folder import locked\n"
        "from jaxforget.stages.run import Run\n"
        "with locked(Run(config_from({'out': sys.argv[1]}))):\n"
        "    print('locked', flush=True); time.sleep(600)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, stubbed.run], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match=rf"another command is working in it \(process {other.pid} on .*\); wait"):
        stubbed()
    chain(stubbed.world, stubbed.run, stages=("report",))  # only reads
    other.kill()
    other.wait()
    assert stubbed()[0] == []


def test_a_chain_says_its_expected_time_where_the_run_measured_it(stubbed, monkeypatch):
    assert not any("expected time" in line for line in stubbed()[1])
    monkeypatch.setattr(estimate, "prepared_blocks", lambda folder: estimate.Blocks(80, 0, 25.0, "prepared"))
    # Steps of 0.5 s and 0.7 s: 50 steps of twice the rows take 60 s.
    steps = [
        {"stage": "forget", "step": n, "kind": "train", "tokens": n * 10, "tokens_per_second": 100} for n in (5, 7)
    ]
    write_text(stubbed.run / "metrics.jsonl", "".join(json.dumps(step) + "\n" for step in steps))
    said = stubbed(forget={"max_steps": 50, "batch": 16})[1]
    seconds = re.fullmatch(r"expected time: (\d+) s for forget, eval, export", said[0])
    assert 60 <= int(seconds[1]) <= 61  # the stages that only write a file here take no time
    run = Run(config_from(settings(stubbed.world, stubbed.run)))
    assert estimate.measured_step_seconds(run, "forget") == pytest.approx(0.3)  # of half the rows
    monkeypatch.setattr(estimate, "current_devices", lambda: {"count": 1, "kind": "TPU v4", "processes": 1})
    assert estimate.measured_step_seconds(run, "forget") is None


def test_a_new_chain_says_the_time_of_the_rest_after_its_first_training_stage(stubbed, monkeypatch):
    asked: list[list[str]] = []

    def expected(run, rest):
        asked.append([stage.name for stage in rest])
        return None if len(asked) == 1 else "expected time: 9 s for forget"

    monkeypatch.setattr(pipeline, "_expected_time", expected)
    said = stubbed()[1]
    assert asked[1:] == [["forget", "eval", "export", "report"]]
    place = said.index("expected time: 9 s for forget")
    assert any("reinforce" in line for line in said[:place])
    assert any("forget" in line for line in said[place + 1 :])
