"""One side of bench_step.py in a process of its own: `side.py SIDE SETTINGS`; a line it reads is a step to take.

Answers are JSON: {"ready"} once it stands, then {"seconds", "loss"} a step; at the end of its input {"peak", "held",
"libraries"}, bytes.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np


def resident(name: str) -> int:
    """This process's resident bytes: "VmRSS" now, "VmHWM" at most since the mark was reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {name}")


def reset_peak() -> None:
    """Forgets how much memory loading and compiling took at most: what is measured are steps."""
    Path("/proc/self/clear_refs").write_text("5")


def main(name: str, settings_file: str) -> None:
    """Serves steps until its input ends."""
    settings = json.loads(Path(settings_file).read_text())
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**values: object) -> None:
        print(json.dumps(values), file=answers, flush=True)

    if settings["device"] == "cpu":
        os.environ["JAX_PLATFORMS"] = "cpu"
        # Set before either library makes its threads.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["threads"]])
    else:
        os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    batch = dict(np.load(settings["batch"]))
    places = [None if place is None else Path(place) for place in (settings["base"], settings["reinforced"])]
    if name == "matmul":
        from jax_side import matmul_rate

        answer(rate=matmul_rate())
        return
    if name == "torch":
        from torch_side import TorchSide

        libraries = resident("VmRSS")
        more = {key: settings[key] for key in ("device", "learning_rate", "checkpointing", "threads")}
        side = TorchSide(*places, settings["config"], batch, **more)
    else:
        from jax_side import JaxSide

        libraries = resident("VmRSS")
        side = JaxSide(*places, settings["config"], batch, words=settings["words"], cached=name == "cached")
    answer(ready=True)
    for number, _ in enumerate(sys.stdin):
        seconds, loss = side.timed()
        answer(seconds=seconds, loss=loss)
        if number == 0:
            reset_peak()  # the first one is the warm-up: allocators grow, optimisers make their state
    device_peak = side.device_peak()
    peak = resident("VmHWM") if device_peak is None else device_peak
    answer(peak=peak, held=side.held(), libraries=libraries if device_peak is None else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
