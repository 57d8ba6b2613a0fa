#!/usr/bin/env python3
"""Time the forget step beside a plain PyTorch step with the same weights, batch and threads.

Run it with .venv/bin/python. There are three sides, each in a process of its own. `ours` is the step that
`jaxforget forget` runs. `torch` is the step as one would write it today with `transformers`: three models, labels by
equation 1 from whole logits, AdamW. `cached` is our step with labels computed beforehand and no frozen model; it shows
what labels in the step cost. The sides take turns after a warm-up step each; the table has medians.

Tokens are the positions of the blocks, trained or not. Memory is the peak during steps, libraries and gradients
included, without the weights of the three models and the optimiser's moments. On a GPU the models are Llama-2-7B in
bfloat16 with random weights made on the card, one side runs after the other, and the table adds the share of the card's
rate in large products at 10N FLOP a token (`jaxforget plan` says what this convention omits).

key=value words are options of a run (`jaxforget run --help`). Options that change the result (targets.alpha) hold for
every side, options of the layout (model.remat, mesh.fsdp) for our side only; an option that no side reads is refused.
On a GPU PyTorch's side recomputes its layers (gradient checkpointing) only with model.remat=full.
Defaults: on a CPU model.remat=dots targets.tile=512, on a GPU model.remat=full.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench.command as command
import numpy as np
from bench.words import read_words
from make_random_llama import shape_of, write_random_llama

from jaxforget.errors import UserError
from jaxforget.models.config import ModelConfig
from jaxforget.models.export import config_to_hf
from jaxforget.models.layout import parameter_count

SIDES = ("ours", "torch", "cached")
CPU_SHAPE = {"layers": 4, "width": 512, "inner": 1376, "heads": 8, "vocabulary": 32_000}
# The layers of the 7B model leave no room to keep products on most cards; small layers do.
CPU_WORDS = ("model.dtype=float32", "model.remat=dots", "targets.tile=512")
GPU_WORDS = ("model.dtype=bfloat16", "model.remat=full")
SUPPRESSED = 16
FIRST_TOKEN = 3  # lowest token id of a batch: smaller ids are special tokens
DRIFT = 0.3  # of the reinforced model from base: with unrelated models equation 1 would change no label
AGREE = 1e-3  # relative difference of first losses that rounding may cause, with a label or two changed by it


def make_batch(blocks: int, length: int, untrained: float, vocabulary: int, seed: int) -> dict[str, np.ndarray]:
    """Return a batch of `train.step` with random tokens, translated into as many.

    A share of `untrained` of the positions have replaced tokens and do not count in the loss. The first replaced tokens
    of a row are suppressed after their occurrence.
    """
    rng = np.random.default_rng(seed)
    tokens = rng.integers(FIRST_TOKEN, vocabulary, (blocks, length), np.int32)
    translated = tokens.copy()
    position_map = np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape).copy()
    ids, start = (np.full((blocks, SUPPRESSED), -1, np.int32) for _ in range(2))
    for row in range(blocks):
        out = rng.permutation(np.arange(1, length - 1))[: round(untrained * length)]
        position_map[row, out] = -1
        translated[row, out] = rng.integers(FIRST_TOKEN, vocabulary, len(out))
        first = np.sort(out)[:SUPPRESSED]
        ids[row, : len(first)], start[row, : len(first)] = translated[row, first], first
    return {
        "tokens": tokens,
        "translated": translated,
        "position_map": position_map,
        "suppress_ids": ids,
        "suppress_from": start,
        "weights": np.ones(tokens.shape, np.float32),
        "retain": np.zeros(blocks, np.float32),
    }


class Side:
    """A process that runs one step for each request."""

    def __init__(self, name: str, settings: Path):
        script = Path(__file__).parent / "bench" / "side.py"
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, str(script), name, str(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"},
        )
        self.steps: list[dict[str, float]] = []

    def answer(self) -> dict[str, Any]:
        """Return the next answer of the process."""
        line = self._process.stdout.readline()
        if not line:
            command.unanswered(f"side {self.name}", self._process.wait())
        found = json.loads(line)
        if "fault" in found:
            raise UserError(f"side {self.name}: {found['fault']}")
        return found

    def step(self) -> None:
        """Run one step and record its answer."""
        with contextlib.suppress(BrokenPipeError):  # the process ended; its last answer, or the lack of one, says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        self.steps.append(self.answer())

    def end(self) -> dict[str, Any]:
        """End the process and return its memory."""
        self._process.stdin.close()
        found = self.answer()
        self._process.wait()
        return found

    def kill(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.wait()


def run_sides(names: list[str], settings: Path, rounds: int, *, together: bool) -> dict[str, dict[str, Any]]:
    """Run the sides and return each one's {"seconds", "losses", "peak", "held", "libraries"}.

    Args:
      names: of the sides.
      settings: file of settings that every side reads.
      rounds: timed steps of each side; a warm-up step comes before and is not in "seconds".
      together: all sides exist at once and take turns, so that other load on the machine affects all of them. Else one
        runs after the other, for a device that holds one at a time.
    """
    found: dict[str, dict[str, Any]] = {}
    for group in [names] if together else [[name] for name in names]:
        sides: list[Side] = []
        try:
            for name in group:
                sides.append(Side(name, settings))
                sides[-1].answer()  # wait, so that one side at a time compiles or loads
            for turn in range(rounds + 1):
                for side in sides:
                    side.step()
                    kind = "s" if turn else "s, warm-up"
                    print(f"{side.name:7} {side.steps[-1]['seconds']:8.2f} {kind}", file=sys.stderr, flush=True)
            for side in sides:
                memory = side.end()
                seconds = [step["seconds"] for step in side.steps[1:]]
                found[side.name] = {"seconds": seconds, "losses": [step["loss"] for step in side.steps], **memory}
        finally:
            for side in sides:
                side.kill()
    return found


def report(found: dict[str, dict[str, Any]], tokens: int, config: ModelConfig, rate: float | None) -> dict[str, Any]:
    """Return tokens/s and bytes of every side and our ratios to the others; `rate` is that of large products."""
    flops = 10 * parameter_count(config)
    result: dict[str, Any] = {"sides": {}}
    for name, side in found.items():
        middle = statistics.median(side["seconds"])
        side |= {"tokens_per_second": tokens / middle, "beyond_bytes": side["peak"] - side["held"]}
        if rate is not None and name != "cached":
            side["matmul_share"] = flops * side["tokens_per_second"] / rate
        result["sides"][name] = side
    ours, theirs, cached = (result["sides"].get(name) for name in SIDES)
    if ours and theirs:
        result["tokens_per_second_ratio"] = ours["tokens_per_second"] / theirs["tokens_per_second"]
        result["memory_ratio"] = ours["beyond_bytes"] / theirs["beyond_bytes"]
    if ours and cached:
        result["cached_ratio"] = cached["tokens_per_second"] / ours["tokens_per_second"]
    return result | {"matmul_flops_per_second": rate}


def check_losses(found: dict[str, dict[str, Any]]) -> None:
    """Raise `UserError` unless all sides have the same first loss, since they then did not compute the same step."""
    losses = {name: side["losses"][0] for name, side in found.items()}
    low, high = min(losses.values()), max(losses.values())
    if not high - low <= AGREE * abs(low):
        raise UserError(f"the first losses disagree: {losses}; the sides did not compute the same step")


def as_text(result: dict[str, Any]) -> str:
    """Return the result as a table."""
    head = f"{'':8}{'tokens/s':>10}{'s a step':>10}{'(from - to)':>17}"
    lines = [f"{head}{'memory beyond weights':>24}{'(libraries)':>14}  losses"]
    for name, side in result["sides"].items():
        spread = f"({min(side['seconds']):.2f} - {max(side['seconds']):.2f})"
        losses = " ".join(f"{loss:.5f}" for loss in (side["losses"][0], side["losses"][-1]))
        lines.append(
            f"{name:8}{side['tokens_per_second']:10.0f}{statistics.median(side['seconds']):10.2f}"
            f"{spread:>17}"
            f"{side['beyond_bytes'] / 2**30:20.2f} GiB{side['libraries'] / 2**30:10.2f} GiB  {losses}"
        )
    for name, side in result["sides"].items():
        if "matmul_share" in side:
            lines.append(f"{name}: {side['matmul_share']:.1%} of the rate of large products, at 10N FLOP a token")
    if "memory_ratio" in result:
        ratios = f"{result['tokens_per_second_ratio']:.2f} x its tokens/s at {result['memory_ratio']:.2f} x its memory"
        lines.append(f"ours over torch: {ratios}")
    if "cached_ratio" in result:
        lines.append(f"with cached labels and no teacher: {result['cached_ratio']:.2f} x ours")
    return "\n".join(lines)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line and fill in the device's defaults."""
    parser = command.Parser(__file__, __doc__)
    size = command.number(int, 1)
    parser.add_argument("options", metavar="key=value", nargs="*", help="options of a run")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "gpu"), help="[a GPU where there is one]")
    parser.add_argument("--side", action="append", choices=SIDES, help="run only this side; may be repeated [all]")
    parser.add_argument("--rounds", type=size, default=5, help="timed steps of each side [5]")
    parser.add_argument("--blocks", type=size, default=8, help="blocks in a step [8]")
    parser.add_argument("--length", type=command.number(int, 8), default=512, help="tokens of a block [512]")
    untrained = command.number(float, 0, 1)
    parser.add_argument("--untrained", type=untrained, default=0.25, help="share of untrained positions [0.25]")
    parser.add_argument("--threads", type=size, help="threads on a CPU [all that this process may use]")
    parser.add_argument("--layers", type=size, help="number of layers [4; on a GPU these five are Llama-2-7B's]")
    parser.add_argument("--width", type=size, help="width of the hidden states [512]")
    parser.add_argument("--inner", type=size, help="width of the feed-forward part [1376]")
    parser.add_argument("--heads", type=size, help="number of attention heads [8]")
    parser.add_argument(
        "--vocabulary", type=command.number(int, FIRST_TOKEN + 1), help="size of the vocabulary [32000]"
    )
    on_device = "make random weights on the device, as on a GPU; losses then differ"
    parser.add_argument("--random-on-device", action="store_true", help=on_device)
    parser.add_argument("--json", action="store_true", help="print JSON")
    # Intermixed, so that options of a run may come before and after a flag.
    given = parser.parse_intermixed_args(words)
    given.side = [name for name in SIDES if given.side is None or name in given.side]
    given.like = "meta-llama/Llama-2-7b-hf"
    gpu = shutil.which("nvidia-smi") is not None
    if given.device == "auto":
        given.device = "gpu" if gpu else "cpu"
    if given.device == "gpu":
        if not gpu:
            raise UserError("--device gpu: this machine has no nvidia-smi, so no GPU; leave --device out, or give cpu")
        if given.threads is not None:
            raise UserError("--threads: a GPU's sides are not limited; leave it out, or give --device cpu")
        return given
    for name, default in CPU_SHAPE.items():
        if getattr(given, name) is None:
            setattr(given, name, default)
    there = len(os.sched_getaffinity(0))
    given.threads = given.threads or there
    if given.threads > there:
        raise UserError(f"--threads {given.threads}: this process may use {there}; give so many or fewer")
    return given


def main(words: Sequence[str]) -> None:
    """Measure and print."""
    given = parse(words)
    gpu = given.device == "gpu"
    own = [*(GPU_WORDS if gpu else CPU_WORDS), f"forget.batch={given.blocks}"]
    # Faults are reported before weights are made.
    run = read_words(own, given.options, given.side)
    config = dataclasses.replace(shape_of(given), max_position_embeddings=max(given.length, 16))
    if "torch" in given.side:
        command.require("torch", "scripts/test installs it; or add --side ours --side cached")
    on_device = gpu or given.random_on_device
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not on_device:
            command.check_room(
                folder, 8 * parameter_count(config), "set TMPDIR, or give a smaller --width or --vocabulary"
            )
        np.savez(folder / "batch.npz", **make_batch(given.blocks, given.length, given.untrained, config.vocab_size, 0))
        if not on_device:
            for model, drift in (("base", 0.0), ("reinforced", DRIFT)):
                write_random_llama(folder / model, config, dtype="float32", drift=drift)
        settings = {
            "device": given.device,
            "threads": given.threads,
            "config": config_to_hf(config),
            "batch": str(folder / "batch.npz"),
            "base": None if on_device else str(folder / "base"),
            "reinforced": None if on_device else str(folder / "reinforced"),
            "words": [*own, *given.options],
            "alpha": run.targets.alpha,
            "adamw": {
                "lr": run.forget.learning_rate,
                "betas": (run.forget.b1, run.forget.b2),
                "eps": run.forget.eps,
                "weight_decay": run.forget.weight_decay,
            },
            "checkpointing": gpu and run.model.remat == "full",
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        rate = None
        if gpu:
            matmul = Side("matmul", folder / "settings.json")
            rate = matmul.answer()["rate"]
            matmul.kill()
        found = run_sides(given.side, folder / "settings.json", given.rounds, together=not gpu)
    if not on_device:
        check_losses(found)
    result = report(found, given.blocks * given.length, config, rate)
    result["shape"] = {key: getattr(given, key) for key in ("device", "threads", "blocks", "length", "untrained")}
    result["shape"] |= {"options": settings["words"], "config": settings["config"], "load": os.getloadavg()[0]}
    print(json.dumps(result, indent=1) if given.json else as_text(result))


if __name__ == "__main__":
    command.run(__file__, main)
