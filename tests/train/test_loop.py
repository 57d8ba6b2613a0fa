"""The loop: its log, checkpoints and errors, and interruptions, which change no bit of the result."""

import os
import signal
import threading
import time

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from jaxforget.errors import Preempted, UserError
from jaxforget.train.checkpoint import Checkpoints
from jaxforget.train.loop import hosts_preempted
from jaxforget.train.metrics import MetricsLog, read_records
from tests.train.looping import SCHEDULE, STEPS, batches, compiled, fit, fresh, opened
from tests.train.tiny import assert_same_bits


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def terminal():
    """Install the handler of Ctrl-C that a terminal has, regardless of how the tests were started."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def at(step: int, action):
    """Return a hook that acts when the batch of `step` is requested."""
    return lambda coming: action() if coming == step else None


def records(folder, kind: str = "train"):
    return [record for record in read_records(folder / "metrics.jsonl") if record["kind"] == kind]


def untimed(folder) -> list[dict]:
    """Return all records without the values that depend on time."""
    return [
        {key: value for key, value in record.items() if key != "tokens_per_second"}
        for record in read_records(folder / "metrics.jsonl")
    ]


def latest(folder) -> int | None:
    with opened(folder) as checkpoints:
        return checkpoints.latest()


def measured(step: int, params) -> dict[str, float]:
    return {"familiarity": float(np.abs(np.asarray(params["w"])).sum())}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder and the state of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, fit(folder, evaluate_every=3, evaluate=measured)


def test_every_step_is_logged_in_order(whole):
    folder, state = whole
    assert [record["step"] for record in records(folder)] == list(range(1, STEPS + 1))
    assert [record["step"] for record in records(folder, "eval")] == [0, 3, 6, 8]
    rates = [record["learning_rate"] for record in records(folder)]
    np.testing.assert_allclose(rates, [SCHEDULE(step) for step in range(STEPS)], rtol=1e-6)
    assert int(state.step) == STEPS


def test_values_are_those_of_the_steps(whole):
    state, wanted = fresh(), []
    for _, batch in zip(range(STEPS), batches(0), strict=False):
        state, metrics = compiled()(state, batch)
        wanted.append({name: value.item() for name, value in jax.device_get(metrics).items()})
    found = [{name: record[name] for name in wanted[0]} for record in records(whole[0])]
    assert found == wanted
    assert_same_bits(state, whole[1])


def test_metrics_leave_the_device_one_step_late(tmp_path):
    dispatched, seen = [], {}

    def step_function(state, batch):
        dispatched.append(len(dispatched) + 1)
        return compiled()(state, batch)

    class Watching(MetricsLog):
        def write(self, step, values, *, kind="train"):
            seen[step] = dispatched[-1]
            super().write(step, values, kind=kind)

    fit(tmp_path, checkpoint_every=5, step_function=step_function, log_type=Watching)
    # A state must be checked before it is saved, and so must the last one.
    assert seen == {1: 2, 2: 3, 3: 4, 4: 5, 5: 5, 6: 7, 7: 8, 8: 8}


def test_evaluations_and_saves_cost_no_tokens_per_second(tmp_path, monkeypatch):
    clock = [0.0]

    def second() -> float:
        """Return a time that advances by a second at each call, and by the duration of evaluations."""
        clock[0] += 1
        return clock[0]

    def evaluate(step, params):
        clock[0] += 1000
        return {}

    monkeypatch.setattr(time, "perf_counter", second)
    fit(tmp_path, evaluate_every=3, checkpoint_every=2, evaluate=evaluate)
    # The first step of a run, or of a resumed run, compiles, so it has no rate.
    found = [record.get("tokens_per_second") for record in records(tmp_path)]
    assert found == [None] + [96.0] * (STEPS - 1)


def test_nothing_else_crosses_between_host_and_device(tmp_path):
    def step_function(state, batch):
        return compiled()(state, {**batch, "y": np.zeros(8, np.float32)})

    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        fit(tmp_path, step_function=step_function)


@pytest.mark.parametrize(("step", "every", "kept"), [(1, 2, None), (5, 2, 4), (6, 2, 4), (6, 1, 5), (8, 3, 6)])
def test_nan_stops_and_keeps_the_last_good_checkpoint(tmp_path, step, every, kept):
    with pytest.raises(UserError) as error:
        fit(tmp_path, checkpoint_every=every, hook=at(step, lambda: np.nan))
    told = "no checkpoint was made yet" if kept is None else f"the checkpoint of step {kept} is kept"
    assert f"forget: loss nan, gradient norm nan at step {step}; {told}. " in str(error.value)
    assert "forget.learning_rate" in str(error.value)
    assert "\n" not in str(error.value)
    assert latest(tmp_path) == kept
    assert [record["step"] for record in records(tmp_path)] == list(range(1, step))
    # The kept checkpoint is valid: with other data the run continues from it.
    assert np.isfinite(np.asarray(fit(tmp_path).params["w"])).all()


def test_infinite_gradient_stops(tmp_path):
    def step_function(state, batch):
        state, metrics = compiled()(state, batch)
        return state, {**metrics, "grad_norm": metrics["grad_norm"] * jax.device_put(np.float32(np.inf))}

    with pytest.raises(UserError, match=r"loss \d.*, gradient norm inf at step 1"):
        fit(tmp_path, step_function=step_function)


@pytest.mark.parametrize("step", [1, 4, 5])
def test_sigterm_saves_and_the_same_command_goes_on(tmp_path, whole, step):
    with pytest.raises(Preempted, match=f"forget: stopped by SIGTERM, saved at step {step};"):
        fit(tmp_path, evaluate_every=3, evaluate=measured, checkpoint_every=4, hook=at(step, terminate))
    assert latest(tmp_path) == step
    assert records(tmp_path)[-1]["step"] == step
    state = fit(tmp_path, evaluate_every=3, evaluate=measured, checkpoint_every=4)
    assert_same_bits(state, whole[1])
    assert untimed(tmp_path) == untimed(whole[0])


@pytest.mark.parametrize(("step", "saved"), [(0, 1), (3, 4), (8, 8)])
def test_sigterm_during_an_evaluation(tmp_path, whole, step, saved):
    def evaluate(now, params):
        if now == step:
            terminate()
        return measured(now, params)

    with pytest.raises(Preempted, match=f"saved at step {saved};"):
        fit(tmp_path, evaluate_every=3, evaluate=evaluate)
    assert latest(tmp_path) == saved
    assert_same_bits(fit(tmp_path, evaluate_every=3, evaluate=measured), whole[1])
    assert untimed(tmp_path) == untimed(whole[0])


def test_sigterm_during_the_last_save(tmp_path, whole, monkeypatch):
    wait = Checkpoints.wait
    monkeypatch.setattr(Checkpoints, "wait", lambda self: (terminate(), wait(self)))
    with pytest.raises(Preempted, match="saved at step 8;"):
        fit(tmp_path)
    monkeypatch.undo()
    assert_same_bits(fit(tmp_path), whole[1])


def test_ctrl_c_in_the_midst_of_a_save_loses_nothing_and_a_second_one_interrupts(
    tmp_path, whole, monkeypatch, terminal, capfd
):
    save = Checkpoints.save

    def disturbed(self, step, *words):
        if step == 3:
            os.kill(os.getpid(), signal.SIGINT)
        save(self, step, *words)

    monkeypatch.setattr(Checkpoints, "save", disturbed)
    with pytest.raises(Preempted, match="forget: stopped by SIGINT, saved at step 4; run the same command") as stopped:
        fit(tmp_path, checkpoint_every=3)
    assert stopped.value.signal == signal.SIGINT
    assert "saving this step" in capfd.readouterr().err
    assert latest(tmp_path) == 4
    monkeypatch.undo()

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, hook=at(6, twice))
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert_same_bits(fit(tmp_path), whole[1])


def test_ctrl_c_whose_line_nobody_reads_saves_all_the_same(tmp_path, terminal):
    """A closed standard error, as behind `2>&1 | tee`, which the same Ctrl-C ends."""
    reader, writer = os.pipe()
    os.close(reader)
    before = os.dup(2)
    os.dup2(writer, 2)
    try:
        with pytest.raises(Preempted, match="saved at step 5"):
            fit(tmp_path, hook=at(5, lambda: os.kill(os.getpid(), signal.SIGINT)))
    finally:
        os.dup2(before, 2)
        for descriptor in (before, writer):
            os.close(descriptor)
    assert latest(tmp_path) == 5


def test_a_signal_at_the_last_moment_is_not_lost(tmp_path, monkeypatch):
    asked = []

    def preempted() -> bool:
        asked.append(1)
        if len(asked) == STEPS + 1:  # once a step, and once after the last save
            terminate()
        return False

    monkeypatch.setattr("jaxforget.train.loop.hosts_preempted", preempted)
    with pytest.raises(Preempted, match="saved at step 8"):
        fit(tmp_path)


def test_what_the_second_ctrl_c_leaves_for_the_third_stands(tmp_path, terminal):
    """The command's own handler installs another one, which ends the process."""

    def leave(*_) -> None:
        """Handle the third signal."""

    def interrupt(*_) -> None:
        signal.signal(signal.SIGINT, leave)
        raise KeyboardInterrupt

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, hook=at(3, twice))
    assert signal.getsignal(signal.SIGINT) == leave


def test_ctrl_c_that_was_to_be_ignored_is(tmp_path, whole):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        state = fit(tmp_path, hook=at(3, lambda: os.kill(os.getpid(), signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert_same_bits(state, whole[1])


def test_hosts_ask_with_a_new_number_in_every_stage(tmp_path, monkeypatch):
    # JAX chooses a future number. A counter that restarts after 30 steps of one stage would miss it for 30 more.
    asked = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: bool(asked.append(step)))
    assert [hosts_preempted() for _ in range(3)] == [False] * 3
    assert asked == list(range(asked[0], asked[0] + 3))
    hosts_preempted()
    assert asked[-1] == asked[0] + 3
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", lambda step: True)
    assert hosts_preempted()
    monkeypatch.undo()
    assert not hosts_preempted()


def test_the_handler_of_before_comes_back(tmp_path):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        fit(tmp_path)
        terminate()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [1]


def test_a_thread_needs_no_signals(tmp_path, whole):
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(tmp_path)))
    thread.start()
    thread.join()
    assert_same_bits(found[0], whole[1])


def test_a_crash_loses_only_what_came_after_the_last_checkpoint(tmp_path, whole):
    def crash():
        raise RuntimeError("killed")

    # The second attempt begins with the checkpoint and the log of the first one and logs step 4 again.
    for step, saved, logged in ((6, 3, 4), (8, 6, 6)):
        with pytest.raises(RuntimeError, match="killed"):
            fit(tmp_path, evaluate_every=3, evaluate=measured, checkpoint_every=3, hook=at(step, crash))
        assert (latest(tmp_path), records(tmp_path)[-1]["step"]) == (saved, logged)
    state = fit(tmp_path, evaluate_every=3, evaluate=measured, checkpoint_every=3)
    assert_same_bits(state, whole[1])
    assert untimed(tmp_path) == untimed(whole[0])


def test_a_finished_run_does_nothing(whole):
    folder, state = whole
    before = (folder / "metrics.jsonl").read_text()

    def refuse(*_):
        raise AssertionError("called")

    again = fit(folder, evaluate_every=3, step_function=refuse, evaluate=refuse, hook=refuse)
    assert_same_bits(again, state)
    assert (folder / "metrics.jsonl").read_text() == before


def test_goes_on_with_another_number_of_devices(tmp_path, whole):
    with pytest.raises(Preempted):
        fit(tmp_path, devices=8, hook=at(3, terminate))
    state = fit(tmp_path, devices=4)
    # Sums over devices have another order, so the results are not equal bit for bit.
    np.testing.assert_allclose(state.params["w"], whole[1].params["w"], atol=1e-6)
    assert int(state.step) == STEPS


def test_the_best_checkpoint_survives_interruptions(tmp_path):
    values = {0: 0.9, 2: 0.5, 4: 0.1, 6: 0.3, 8: 0.2}

    def evaluate(step, params):
        return {"familiarity": values[step]}

    settings = {"evaluate_every": 2, "evaluate": evaluate, "select": "familiarity", "keep": 1}
    with pytest.raises(Preempted):
        fit(tmp_path, hook=at(5, terminate), **settings)
    fit(tmp_path, **settings)
    with opened(tmp_path, select="familiarity", keep=1) as checkpoints:
        assert (checkpoints.best(), checkpoints.latest()) == (4, 8)
