"""The loop around a compiled step: batches, metrics (read one step late), evaluations, checkpoints and signals."""

import contextlib
import dataclasses
import functools
import itertools
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxforget.errors import Preempted, UserError
from jaxforget.train.checkpoint import Checkpoints
from jaxforget.train.metrics import MetricsLog
from jaxforget.train.precision import compute_params
from jaxforget.train.types import Batch, TrainState


class Diverged(UserError):
    """The loss or the gradient of a training stage is not finite."""


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """Options of the loop.

    Attributes:
      stage: name of the stage, for the log and messages.
      steps: the last step; steps count from 1.
      checkpoint_every: steps between checkpoints.
      evaluate_every: steps between evaluations; 0 evaluates only before the first and after the last step.
    """

    stage: str
    steps: int
    checkpoint_every: int
    evaluate_every: int = 0


class _Signals:
    """The handler of SIGTERM and SIGINT during a training loop, which saves its step before it ends.

    An exception that a Ctrl-C raised during a save made orbax wait for itself. A second Ctrl-C raises all the same.

    Attributes:
      heard: the signals so far.
      saving: True while the loop writes its last checkpoint; `jaxforget.interrupts` gives it time for that alone.
    """

    def __init__(self) -> None:
        self.heard: list[signal.Signals] = []
        self.saving = False
        self._before: dict[int, Any] = {}

    def __call__(self, number: int, _: object) -> None:
        again = number == signal.SIGINT and signal.SIGINT in self.heard
        self.heard.append(signal.Signals(number))
        if again:
            signal.signal(number, self._before[number])
            signal.raise_signal(number)
        elif number == signal.SIGINT:
            # Written to the descriptor, because the interrupted code may hold the stream. The pipe may be closed.
            with contextlib.suppress(OSError):
                os.write(2, b"\njaxforget: saving this step; press Ctrl-C again to end without it\n")

    def __enter__(self) -> "_Signals":
        # A worker thread of a notebook cannot install a handler. Among several hosts JAX has a handler of its own,
        # which tells the others, and one installed here would replace it.
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            for number in (signal.SIGTERM, signal.SIGINT):
                handler = signal.getsignal(number)
                # None is a handler that Python could not restore. SIG_IGN is the wish of the process's starter.
                if handler not in (None, signal.SIG_IGN):
                    self._before[number] = handler
                    signal.signal(number, self)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            # If the handler of before has installed another one for the next signal, that one stays.
            if signal.getsignal(number) is self:
                signal.signal(number, handler)


def hosts_preempted() -> bool:
    """Return True if one of several hosts received SIGTERM since the last call, on all hosts at the same call.

    With several hosts only JAX receives SIGTERM. So all hosts must make this call equally often, after every step and
    between stages.
    """
    if jax.process_count() == 1:
        return False
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(next(_calls()))


@functools.cache
def _calls() -> Iterator[int]:
    """Return the process's counter of `hosts_preempted` calls.

    JAX chooses a future number at which all hosts stop, so a number must never occur twice.
    """
    return itertools.count(1)


class _LateMetrics:
    """The metrics of the latest step, which are read, checked and logged while the device computes the next step.

    Attributes:
      pending: the step and its metrics on the device; None once they are logged.
    """

    def __init__(self, stage: str, first: int, rates: np.ndarray, checkpoints: Checkpoints, log: MetricsLog):
        self._stage, self._first, self._rates = stage, first, rates
        self._checkpoints, self._log = checkpoints, log
        self.pending: tuple[int, dict[str, Any]] | None = None
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave the time until now out of the next step's speed."""
        self._clock = time.perf_counter()

    def settle(self) -> None:
        """Log the pending metrics, if there are any.

        Raises:
          Diverged: the loss or the gradient is not finite.
        """
        if self.pending is None:
            return
        (step, metrics), self.pending = self.pending, None
        values = {name: value.item() for name, value in jax.device_get(metrics).items()}
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            self._checkpoints.wait()
            good = self._checkpoints.latest()
            kept = f"the checkpoint of step {good} is kept" if good else "no checkpoint was made yet"
            raise Diverged(
                f"{self._stage}: loss {values['loss']}, gradient norm {values['grad_norm']} at step {step}; {kept}. "
                f"Lower {self._stage}.learning_rate or set {self._stage}.clip_norm; the stage then starts over"
            )
        now = time.perf_counter()
        timed = {"learning_rate": float(self._rates[step - 1 - self._first])}
        if step > self._first + 1:  # the time of the first step is mostly compilation
            timed["tokens_per_second"] = (values["tokens"] + values.get("retain_tokens", 0)) / (now - self._clock)
        self._clock = now
        self._log.write(step, {**values, **timed})


def run_loop(
    state: TrainState,
    step_function: Callable[[TrainState, Batch], tuple[TrainState, dict[str, Any]]],
    batches: Iterator[Batch],
    options: LoopOptions,
    *,
    checkpoints: Checkpoints,
    log: MetricsLog,
    learning_rate: Callable[[int], Any],
    evaluate: Callable[[int, Any], dict[str, float]] | None = None,
) -> TrainState:
    """Train `state` from its own step to `options.steps`.

    Args:
      state: fresh or restored; donated.
      step_function: compiled `(state, batch) -> (state, metrics)`.
      batches: device batches; the first is that of the state's next step.
      options: the loop's options.
      checkpoints: written every `checkpoint_every` steps, at evaluations, at the end, and at SIGTERM or SIGINT.
      log: receives the metrics of every step.
      learning_rate: a schedule, step -> rate, for the log; traced once.
      evaluate: `(step, params) -> measures`; called before the first step if the state is fresh, every `evaluate_every`
        steps, and after the last step.

    Returns:
      The state after the last step.

    Raises:
      Preempted: SIGTERM or SIGINT arrived, even in the last step; the state is saved.
      Diverged: the loss or the gradient is not finite; the message names the step and the last good checkpoint.
    """
    first = step = int(state.step)

    def measure(step: int, params: Any) -> dict[str, float]:
        if evaluate is None:
            return {}
        values = evaluate(step, params)
        log.write(step, values, kind="eval")
        return values

    # All rates are computed at once, because a computation for each step would delay the device between steps.
    rates = jax.device_get(jax.jit(jax.vmap(learning_rate))(jax.device_put(np.arange(first, options.steps + 1))))
    late = _LateMetrics(options.stage, first, rates, checkpoints, log)
    leave = False
    with _Signals() as signals:
        heard = signals.heard
        if first == 0:
            measure(0, compute_params(state.params))
            late.restart_clock()
        for step in range(first + 1, options.steps + 1):
            # Only batches and settled metrics cross between host and device. The guard refuses every implicit transfer,
            # which would wait for the device.
            with jax.transfer_guard("disallow"):
                state, metrics = step_function(state, next(batches))
                late.settle()
            late.pending = (step, metrics)
            last = step == options.steps
            due = last or (options.evaluate_every and step % options.evaluate_every == 0)
            leave = bool(heard) or hosts_preempted()
            if due or leave or step % options.checkpoint_every == 0:
                late.settle()
                measured = measure(step, compute_params(state.params)) if due else {}
                signals.saving = True
                checkpoints.save(step, state, measured)
                signals.saving = bool(heard)
                late.restart_clock()
            if leave:
                break
        signals.saving = True
        checkpoints.wait()
        # A signal during the last evaluation or save must stop the run, too. With several hosts every host asks JAX,
        # because the hosts must agree.
        leave = leave or hosts_preempted()
    if leave or heard:
        raise Preempted(options.stage, step, heard[0] if heard else signal.SIGTERM)
    return state
