"""`jaxforget demo`: write a toy world, train two models on it from scratch, and run the pipeline on them."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from jaxforget.config import Config, config_from
from jaxforget.demo.pretrain import STEPS, make_init, pretrain_stage
from jaxforget.demo.recipes import PAPER, RECOMMENDED, SHAPE, pretraining, unlearning
from jaxforget.demo.world import build_world
from jaxforget.errors import UserError
from jaxforget.evals.tables import metric_lines
from jaxforget.files import read_json, write_json, write_text
from jaxforget.manifest import process_peak_bytes
from jaxforget.pipeline import run_chain, run_stage, stage_seconds
from jaxforget.report.texts import cut_at_word
from jaxforget.report.verdict import judge_run
from jaxforget.stages.run import Run
from jaxforget.train.metrics import duration, read_records

TYPICAL_SECONDS = 180.0  # of the whole demo on 2 CPU cores, see README.md
CHAIN = ("anchors", "prepare", "reinforce", "forget", "eval", "export", "report")


def run_demo(out: Path, seed: int) -> dict[str, Any]:
    """Run the demo into `out`; an interrupted demo continues where it stopped.

    Args:
      out: folder of the demo.
      seed: seed of the toy world and of both models.

    Returns:
      The content of results.json: models, seconds, peak_rss_bytes, cores, folders, stages.

    Raises:
      UserError: `out` holds the world of another seed.
    """
    world = out / "world"
    truth = world / "truth.json"
    if truth.is_file() and read_json(truth)["seed"] != seed:
        raise UserError(f"--seed {seed}: {out} holds the world of seed {read_json(truth)['seed']}; give another --out")
    seconds = _Times(out / "seconds.json", complete=(out / "results.json").is_file())
    if (left := seconds.left()) is not None:
        _say(f"expected time: {duration(left)} on 2 CPU cores")
    folders = make_models(out, seed, seconds)
    models = {"folder": str(folders["base"]), "control": str(folders["control"])}
    with seconds("paper"):
        _say("== the paper's recipe")
        # The reinforced model is the same for both recipes, so the paper's run uses the other run's.
        recommended = unlearning(out, world, RECOMMENDED, {"model": models})
        shared = _chain(recommended, out / "toy.yaml", ("anchors", "prepare", "reinforce"))
        borrowed = {"model": {**models, "reinforced": str(shared.reinforced)}}
        paper = _chain(
            unlearning(out / "paper", world, PAPER, borrowed),
            out / "paper.yaml",
            ("anchors", "prepare", "reinforce", "forget"),
        )
    with seconds("recommended"):
        _say("== the recommended recipe")
        recommended["evals"]["compare"] = {"paper": str(paper.unlearned)}
        done = _chain(recommended, out / "toy.yaml", CHAIN)
    folders |= {
        "reinforced": done.reinforced,
        "paper": paper.unlearned,
        "unlearned": done.unlearned,
        "export": done.export,
    }
    # A demo that is complete does nothing again, and then this process needs little.
    before = read_json(out / "results.json")["peak_rss_bytes"] if (out / "results.json").is_file() else 0
    results = {
        "models": _models(done, paper),
        "seconds": seconds.total(),
        "peak_rss_bytes": max(process_peak_bytes(), before),
        "cores": os.cpu_count(),
        "folders": {name: str(folder) for name, folder in folders.items()},
        "stages": {name: stage_seconds(run) for name, run in (("recommended", done), ("paper", paper))},
    }
    write_json(out / "results.json", results)
    _show(out, results)
    return results


def make_models(out: Path, seed: int, seconds: Callable[[str], Any] = contextlib.nullcontext) -> dict[str, Path]:
    """Make the toy world of `seed` in `out`/world, and a base and a control trained from scratch on it.

    Args:
      out: the folder of the demo; what is finished in it is not made again.
      seed: seed of the world and of the models' start.
      seconds: returns a context that times the part of this name.

    Returns:
      {"base", "control"} -> the model's folder.
    """
    world, init = out / "world", out / "pretraining" / "init"
    with seconds("world"):
        if not (world / "truth.json").is_file():
            build_world(world, seed=seed)
    with seconds("init"):
        if not (init / "config.json").is_file():
            make_init(init, world / "tokenizer", SHAPE, seed)
    folders = {}
    for name, text in (("base", world / "text"), ("control", world / "text" / "retain")):
        with seconds(name):
            _say(f"== {name}: a toy Llama trained from scratch")
            folders[name] = out / name
            settings = config_from(pretraining(out / "pretraining" / name, init, text))
            run = run_chain(settings, ("prepare",), again=True, force=True)
            run_stage(run, pretrain_stage(folders[name]), again=True)
    return folders


def _chain(values: dict[str, Any], file: Path, stages: tuple[str, ...]) -> Run:
    """Write the configuration to `file`, for `jaxforget run FILE`, and run some of its stages."""
    config: Config = config_from(values)
    write_text(file, OmegaConf.to_yaml(OmegaConf.create(values)))
    return run_chain(config, stages, again=True, force=True)  # the demo owns its folder


def _models(done: Run, paper: Run) -> dict[str, dict[str, float]]:
    """Return each model's three measures and the number of its training steps."""
    measured: dict[str, dict[str, float]] = {}
    for row in read_json(done.evals / "summary.json")["rows"]:
        if row["metric"] in ("familiarity", "retained", "perplexity"):
            measured.setdefault(row["model"], {})[row["metric"]] = row["value"]
    steps = {
        "base": STEPS,
        "control": STEPS,
        "reinforced": _last_step(done.folder, "reinforce"),
        "paper": read_json(paper.unlearned / "steps.json")["steps"],
        "unlearned": read_json(done.unlearned / "steps.json")["steps"],
    }
    return {name: {**measured[name], "steps": steps[name]} for name in steps}


def _last_step(run: Path, stage: str) -> int:
    return max(record["step"] for record in read_records(run / "metrics.jsonl") if record["stage"] == stage)


def _show(out: Path, results: dict[str, Any]) -> None:
    """Print completions side by side, and the table."""
    for item in read_json(out / "evals" / "completions.json")["prompts"]:
        print(f"\n{item['prompt']} ...")
        for name in ("base", "control", "paper", "unlearned"):
            text = cut_at_word(" ".join(item["completions"][name].split())[:100])
            print(f"  {name:10} {text}")
    print()
    print("\n".join(metric_lines(results["models"])))
    print(f"\n{judge_run(out).line(sys.stdout)}")
    seconds = results["seconds"]
    print(f"\n{seconds['total']:.0f} s, {results['peak_rss_bytes'] / 2**30:.1f} GiB at most; {out / 'report.html'}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class _Times:
    """Seconds of each stage, summed over the attempts of an interrupted demo; fixed once the demo is complete."""

    def __init__(self, path: Path, *, complete: bool):
        self._path, self._complete = path, complete
        self._seconds: dict[str, float] = read_json(path) if path.is_file() else {}

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the time of the enclosed code to the stage `name`."""
        began = time.perf_counter()
        try:
            yield
        finally:
            if not self._complete:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - began
                write_json(self._path, self._seconds)

    def left(self) -> float | None:
        """Return the seconds that are left by `TYPICAL_SECONDS`; None once the demo is complete or took longer."""
        left = TYPICAL_SECONDS - sum(self._seconds.values())
        return None if self._complete or left <= 0 else left

    def total(self) -> dict[str, float]:
        """Return the seconds of all stages and their sum."""
        return {"total": round(sum(self._seconds.values()), 2), **{k: round(v, 2) for k, v in self._seconds.items()}}
