"""Chains that fail, are stopped, or meet finished results and other commands; and what they say."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys

import pytest

from jaxforget import pipeline
from jaxforget.config import config_from, load_config
from jaxforget.errors import Preempted, UserError
from jaxforget.files import write_text
from jaxforget.manifest import Manifest
from jaxforget.pipeline import run_chain, stage_seconds
from jaxforget.stages import estimate
from jaxforget.stages.run import Run
from jaxforget.train.loop import Diverged
from tests.stubbed_chain import AFTER_REINFORCE, ALL, FOUND, RETAIN, chain
from tests.tiny_run import settings


def test_a_stage_that_failed_runs_again(stubbed, monkeypatch):
    stubbed()
    working = pipeline.STAGES

    def fail(run, mark):
        raise UserError("no")

    broken = tuple(dataclasses.replace(s, work=fail) if s.name == "forget" else s for s in working)
    monkeypatch.setattr(pipeline, "STAGES", broken)
    with pytest.raises(UserError, match="no"):
        stubbed(forget={"batch": 16})
    # The configuration is the first one again, and so is the result: it was not touched.
    assert load_config(stubbed.run).forget.batch != 16
    monkeypatch.setattr(pipeline, "STAGES", working)
    assert stubbed()[0] == []

    def spoil(run, mark):
        write_text(run.forgotten / "config.json", "half-written")
        raise UserError("no")

    spoiling = tuple(dataclasses.replace(s, work=spoil) if s.name == "forget" else s for s in working)
    monkeypatch.setattr(pipeline, "STAGES", spoiling)
    with pytest.raises(UserError, match="no"):
        stubbed(forget={"batch": 16})
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


@pytest.fixture
def stop(stubbed, monkeypatch):
    """`stop(error)` runs the chain until the stage forget raises `error`, after it saved a checkpoint of step 300."""

    def run(error):
        def work(run, mark):
            folder = run.checkpoints("forget")
            write_text(folder / "fingerprint.json", json.dumps({"fingerprint": mark}))
            (folder / "steps" / "300").mkdir(parents=True, exist_ok=True)
            raise error

        stages = tuple(dataclasses.replace(s, work=work) if s.name == "forget" else s for s in pipeline.STAGES)
        with monkeypatch.context() as patched:
            patched.setattr(pipeline, "STAGES", stages)
            with pytest.raises(type(error)):
                chain(stubbed.world, stubbed.run, again=False)

    return run


@pytest.mark.parametrize(
    ("sections", "changed"),
    [
        ({"forget": {"max_steps": 9}}, "forget.max_steps changed from 4 to 9"),
        ({"anchors": {"match": "longest"}}, "anchors.match changed from 'first' to 'longest'"),
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), Preempted("forget", 300), UserError("disk full")], ids=repr)
def test_checkpoints_of_other_options_are_discarded_only_on_request(sections, changed, error, stubbed, stop):
    stop(error)
    config = (stubbed.run / "config.yaml").read_bytes()
    with pytest.raises(UserError) as refusal:
        chain(stubbed.world, stubbed.run, again=False, **sections)
    assert str(refusal.value) == (
        f"{stubbed.run}: stage forget is unfinished, and {changed} since its checkpoint of step 300; change that back "
        "to continue, or add --again (in Python again=True) to discard the checkpoint"
    )
    assert (stubbed.run / "config.yaml").read_bytes() == config
    assert (stubbed.run / "checkpoints" / "forget" / "steps" / "300").is_dir()
    # The dry run tells the same.
    planned = estimate.plan_chain(
        run := Run(config_from(settings(stubbed.world, stubbed.run, **sections))), pipeline.order(run, ALL)
    )
    assert [one.discards for one in planned if one.discards] == [str(refusal.value)]
    stop(error)  # the same options continue
    assert stubbed(**sections)[0][-3:] == AFTER_REINFORCE[-3:]
    chain(stubbed.world, stubbed.run, again=False, **sections)


def test_checkpoints_of_a_training_that_diverged_need_no_request(stubbed, stop):
    stop(KeyboardInterrupt())
    stop(Diverged("forget: loss nan"))
    chain(stubbed.world, stubbed.run, again=False, forget={"max_steps": 9})
    assert stubbed(forget={"max_steps": 9})[0] == []


def test_an_unfinished_stage_without_a_checkpoint_takes_other_options(stubbed, stop):
    stop(KeyboardInterrupt())
    shutil.rmtree(stubbed.run / "checkpoints")
    chain(stubbed.world, stubbed.run, again=False, forget={"max_steps": 9})


def test_a_stage_that_goes_back_to_what_it_was_needs_no_request(stubbed):
    stubbed()
    chain(stubbed.world, stubbed.run, ("prepare",), blocks={"length": 16})
    assert stubbed(again=False)[0] == ["prepare"]


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
