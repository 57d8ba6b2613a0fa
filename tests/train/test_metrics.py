"""The log of a run: complete, ordered, without duplicates after interruptions, and readable by TensorBoard."""

import io
import json
import re
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from jaxforget.errors import UserError
from jaxforget.train.metrics import MetricsLog, duration, keep_records, read_records, step_seconds


def write(run: Path, stage: str, steps, first: int = 0, **values: float) -> None:
    log = MetricsLog(run, stage, first_step=first, total_steps=10, active=True)
    if not first:
        log.write(0, {"familiarity": 1.0}, kind="eval")
    for step in steps:
        log.write(step, {"loss": 1.0 / step, **values})
    log.close()


def steps_of(run: Path, stage: str) -> list[tuple[int, str]]:
    return [(r["step"], r["kind"]) for r in read_records(run / "metrics.jsonl") if r["stage"] == stage]


def events(folder: Path) -> list[Event]:
    """Return every event of a TensorBoard folder; a record is length, checksum, data, checksum."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data = path.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event()
            event.ParseFromString(data[12 : 12 + size])
            found.append(event)
            data = data[16 + size :]
    return found


def test_records(tmp_path):
    write(tmp_path, "forget", [1, 2], tokens=5)
    assert read_records(tmp_path / "metrics.jsonl") == [
        {"stage": "forget", "step": 0, "kind": "eval", "familiarity": 1.0},
        {"stage": "forget", "step": 1, "kind": "train", "loss": 1.0, "tokens": 5},
        {"stage": "forget", "step": 2, "kind": "train", "loss": 0.5, "tokens": 5},
    ]


def test_seconds_of_a_step_are_its_tokens_by_its_rate():
    records = [
        {"stage": "forget", "kind": "train", "tokens": 100, "retain_tokens": 0},  # the first step is not timed
        {"stage": "forget", "kind": "train", "tokens": 60, "retain_tokens": 40, "tokens_per_second": 50.0},
        {"stage": "forget", "kind": "eval", "familiarity": 0.5},
        {"stage": "reinforce", "kind": "train", "tokens": 30, "tokens_per_second": 10.0},
    ]
    assert step_seconds(records, "forget") == [2.0]
    assert step_seconds(records, "reinforce") == [3.0]
    assert step_seconds(records, "undo") == []


def test_a_log_without_a_terminal_shows_life_now_and_then(tmp_path, capsys, monkeypatch):
    write(tmp_path, "forget", [1, 2], tokens_per_second=4321.6)
    assert capsys.readouterr().err == ""  # the first line comes after half a minute
    monkeypatch.setattr("jaxforget.train.metrics.PRINT_EVERY", 0)
    write(tmp_path, "forget", [1, 2], tokens_per_second=4321.6)
    lines = capsys.readouterr().err.splitlines()
    assert [line.rsplit(", ", 1)[0] for line in lines] == [
        "  step 1 of 10: loss 1, 4,322 tokens/s",
        "  step 2 of 10: loss 0.5, 4,322 tokens/s",
    ]


def test_a_progress_bar_fits_80_columns(tmp_path, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    monkeypatch.setenv("COLUMNS", "200")
    log = MetricsLog(tmp_path, "reinforce", first_step=0, total_steps=10_000, active=True)
    log.write(1, {"loss": 1.23456, "retain_loss": 0.123456, "forget_loss": 12.3456, "other_loss": 1e-9})
    log._bar.refresh()
    log.close()
    shown = re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;]*\w", "", terminal.getvalue()))
    assert any("reinforce" in line and "loss" in line for line in shown)
    assert max(map(len, shown)) <= 80


def test_a_log_without_a_terminal_says_how_much_time_is_left(tmp_path, capsys, monkeypatch):
    clock = iter(range(0, 100_000, 600))
    # The module's own clock: threads of other libraries read the real one.
    monkeypatch.setattr("jaxforget.train.metrics.time", SimpleNamespace(monotonic=lambda: next(clock)))
    log = MetricsLog(tmp_path, "forget", first_step=3, total_steps=10, active=True)
    log.write(5, {"loss": 1.0})
    log.close()
    # Read at 0 (begun), 600 (is it time?) and 1,200 s: 600 s for each of 2 steps, and 5 are left.
    assert capsys.readouterr().err == "  step 5 of 10: loss 1, 50 min left\n"


@pytest.mark.parametrize(("seconds", "said"), [(40.2, "40 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_durations_are_as_precise_as_estimates(seconds, said):
    assert duration(seconds) == said


def test_going_on_drops_later_steps_of_this_stage_only(tmp_path):
    write(tmp_path, "reinforce", range(1, 6))
    write(tmp_path, "forget", range(1, 6))
    write(tmp_path, "forget", range(4, 7), first=3)
    assert steps_of(tmp_path, "forget") == [(0, "eval")] + [(step, "train") for step in range(1, 7)]
    assert steps_of(tmp_path, "reinforce") == [(0, "eval")] + [(step, "train") for step in range(1, 6)]


def test_starting_over_drops_everything_of_this_stage(tmp_path):
    write(tmp_path, "forget", range(1, 6))
    write(tmp_path, "forget", range(1, 3))
    assert steps_of(tmp_path, "forget") == [(0, "eval"), (1, "train"), (2, "train")]


def test_half_a_last_line_is_dropped(tmp_path):
    write(tmp_path, "forget", range(1, 4))
    path = tmp_path / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-9])
    assert [step for step, _ in steps_of(tmp_path, "forget")] == [0, 1, 2]
    # A new record must not be joined to the incomplete line.
    write(tmp_path, "forget", [3], first=2)
    assert path.read_text() == whole
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_tensorboard_reads_it_back(tmp_path):
    write(tmp_path, "forget", range(1, 4))
    found = events(tmp_path / "tensorboard" / "forget")
    scalars = [(event.step, value.tag, value.simple_value) for event in found for value in event.summary.value]
    assert scalars[:2] == [(0, "eval/familiarity", 1.0), (1, "train/loss", 1.0)]
    assert [step for step, tag, _ in scalars if tag == "train/loss"] == [1, 2, 3]


@pytest.mark.parametrize(("first", "purged"), [(0, 0), (2, 3)])
def test_tensorboard_hides_what_is_written_again(tmp_path, first, purged):
    write(tmp_path, "forget", [first + 1], first=first)
    # The start event of a session tells TensorBoard to discard later steps of older files.
    starts = [event.step for event in events(tmp_path / "tensorboard" / "forget") if event.HasField("session_log")]
    assert starts == [purged]


class FakeWandb:
    """The part of the package wandb that the log uses; it keeps what it receives, by record."""

    def __init__(self, fault: Exception | None = None):
        self.fault, self.starts, self.logged, self.finished = fault, [], {}, []

    def init(self, **given):
        if self.fault is not None:
            raise self.fault
        self.starts.append(given)
        name = given["id"]
        return SimpleNamespace(
            log=lambda values, step: self.logged.setdefault(name, []).append((step, values)),
            finish=lambda: self.finished.append(name),
        )


def write_to_wandb(run: Path, steps, first: int = 0) -> None:
    settings = {"seed": 3}
    log = MetricsLog(
        run, "forget", first_step=first, total_steps=10, active=True, wandb="unlearning", settings=settings
    )
    for step in steps:
        log.write(step, {"loss": 1.0 / step})
    log.write(steps[-1], {"familiarity": 0.5}, kind="eval")
    log.close()


def test_wandb_receives_every_record_and_a_resumed_stage_continues_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", fake := FakeWandb())
    write_to_wandb(tmp_path / "mine", [1, 2])
    write_to_wandb(tmp_path / "mine", [3], first=2)
    first, second = fake.starts
    assert (first["project"], first["name"], first["config"]) == ("unlearning", "mine forget", {"seed": 3})
    assert first["dir"] == str(tmp_path / "mine")
    assert second["id"] == first["id"]
    assert second["resume"] == "allow"
    assert fake.logged == {
        first["id"]: [
            (1, {"train/loss": 1.0}),
            (2, {"train/loss": 0.5}),
            (2, {"eval/familiarity": 0.5}),
            (3, {"train/loss": 1 / 3}),
            (3, {"eval/familiarity": 0.5}),
        ]
    }
    assert fake.finished == [first["id"]] * 2
    write_to_wandb(tmp_path / "mine", [1])
    assert fake.starts[2]["id"] != first["id"], "a stage that starts over has a record of its own"


def test_a_wandb_that_cannot_start_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(RuntimeError("api_key not configured\nmore")))
    with pytest.raises(UserError, match="^log.wandb=unlearning: api_key not configured; run wandb login, set WANDB"):
        write_to_wandb(tmp_path, [1])
    assert not (tmp_path / "metrics.jsonl").exists()


def test_other_processes_write_nothing(tmp_path):
    log = MetricsLog(tmp_path, "forget", first_step=0, total_steps=1, active=False)
    log.write(1, {"loss": 1.0})
    log.close()
    assert not list(tmp_path.iterdir())


def test_nothing_to_read_or_keep(tmp_path):
    keep_records(tmp_path / "metrics.jsonl", lambda record: True)
    assert read_records(tmp_path / "metrics.jsonl") == []
    assert not list(tmp_path.iterdir())
