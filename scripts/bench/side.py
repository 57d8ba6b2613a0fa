"""One side of bench_step.py in a process of its own: `side.py SIDE SETTINGS`; each line of its input requests a step.

Answers are JSON: {"ready"} when it is compiled, then {"seconds", "loss"} for each step, and at the end of its input
{"peak", "held", "libraries"} in bytes. Any of them may be {"fault"}, a user's error in one line; the status is then 2.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np


def resident(name: str) -> int:
    """Return this process's resident bytes: "VmRSS" now, "VmHWM" the peak since its last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def reset_peak() -> None:
    """Reset the peak of resident memory, so that it covers steps and not loading or compiling."""
    Path("/proc/self/clear_refs").write_text("5")


def main(name: str, settings_file: str) -> None:
    """Answer until the input ends."""
    settings = json.loads(Path(settings_file).read_text())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with answers

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        serve(name, settings, answer)
    except KeyboardInterrupt:
        sys.exit(130)  # the parent process reports it
    except Exception as error:
        # Imported late, so that a side's memory does not include it.
        from command import fault_line

        if (line := fault_line(error)) is None:
            raise
        answer(fault=line)
        sys.exit(2)


def serve(name: str, settings: dict[str, Any], answer: Callable[..., None]) -> None:
    """Build the side `name` and run steps on request."""
    if settings["device"] == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        # Set before either library makes its threads.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["threads"]])
    else:
        from jaxforget.start import allow_whole_gpu

        allow_whole_gpu()
    batch = dict(np.load(settings["batch"]))
    places = [None if place is None else Path(place) for place in (settings["base"], settings["reinforced"])]
    if name == "matmul":
        from jax_side import check_gpu, matmul_rate

        check_gpu()
        answer(rate=matmul_rate())
        return
    if name == "torch":
        from torch_side import TorchSide

        libraries = resident("VmRSS")
        more = {key: settings[key] for key in ("device", "alpha", "adamw", "checkpointing", "threads")}
        side = TorchSide(*places, settings["config"], batch, **more)
    else:
        from jax_side import JaxSide, check_gpu

        if settings["device"] == "gpu":
            check_gpu()
        libraries = resident("VmRSS")
        side = JaxSide(*places, settings["config"], batch, words=settings["words"], cached=name == "cached")
    answer(ready=True)
    for number, _ in enumerate(sys.stdin):
        seconds, loss = side.timed()
        answer(seconds=seconds, loss=loss)
        if number == 0:
            reset_peak()  # after the warm-up, in which allocators grow and optimisers create their state
    device_peak = side.device_peak()
    peak = resident("VmHWM") if device_peak is None else device_peak
    answer(peak=peak, held=side.held(), libraries=libraries if device_peak is None else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
