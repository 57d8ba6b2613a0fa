"""The results of scripts/novel: results.json and what it prints."""

import os
import platform
from pathlib import Path
from typing import Any

import jax

import jaxforget
from jaxforget.evals.tables import metric_lines
from jaxforget.files import hash_file, read_json, write_json
from jaxforget.report.artefacts import read_attack_metrics, read_summary
from jaxforget.stages.run import Run

MODELS = ("original", "base", "control", "paper", "unlearned")
SUITES = "probability,multiple_choice,memorization,membership,prompting,weights,relearning"
MAIN = ("familiarity", "retained", "perplexity")
# Files of probes that are asked besides the questions of a run, and the names of their measures in the results.
ASKED = {
    "cloze": {"familiarity": "cloze_familiarity", "retained": "cloze_retained"},
    "general": {"retained": "general"},
    "questions": {"familiarity": "familiarity", "retained": "retained"},
}


def ask(folders: dict[str, Path], probes: dict[str, Path], heldout: Path, length: int, path: Path) -> None:
    """Ask each model the probes that the run of `recommended.yaml` does not ask, and write `path`.

    A model is asked again only if its weights or the questions changed.

    Args:
      folders: model -> its folder.
      probes: key of `ASKED` -> file of probes.
      heldout: text for the perplexity of the original model.
      length: tokens of a block of it.
      path: JSON {model: {"inputs": hashes, "measured": {measure: value}}}.
    """
    found: dict[str, dict[str, Any]] = read_json(path) if path.is_file() else {}
    files = [*probes.values(), *sorted(heldout.glob("*"))]
    for name, folder in folders.items():
        inputs = [hash_file(file) for file in (*sorted(folder.glob("*.safetensors")), *files)]
        if found.get(name, {}).get("inputs") == inputs:
            continue
        model, measured = jaxforget.load(folder, "bfloat16"), {}
        for kind, names in ASKED.items():
            if kind == "questions" and name != "original":
                continue  # the run asks the others
            for row in jaxforget.evaluate(model, probes=str(probes[kind])):
                metric, _, form = row["metric"].partition("_")
                if metric in names:
                    measured["_".join(filter(None, (names[metric], form)))] = row["value"]
        if name == "original":
            [row] = jaxforget.evaluate(model, heldout=str(heldout), length=length)
            measured["perplexity"] = row["value"]
        write_json(path, found := {**found, name: {"inputs": inputs, "measured": measured}})


def write_results(path: Path, run: Run, asked: Path, seconds: dict[str, float], dictionary: dict[str, Any]) -> None:
    """Write results.json: models, dictionary, completions, token dynamics, hardware and seconds.

    Args:
      path: the file.
      run: the finished run of recommended.yaml.
      asked: the file that `ask` wrote.
      seconds: of each stage.
      dictionary: size, and where the novel's names are known, precision and recall.
    """
    attacks = read_attack_metrics(run.folder)
    models: dict[str, dict[str, Any]] = {name: dict(entry["measured"]) for name, entry in read_json(asked).items()}
    for row in read_summary(run.folder) or ():
        if row.model not in models:
            continue
        held = models[row.model].setdefault("attacks", {}) if row.metric in attacks else models[row.model]
        # Of one measure under two conventions the first counts, as in the report.
        held.setdefault(row.metric, row.value)
    results = {
        "models": {name: models[name] for name in MODELS if name in models},
        "dictionary": dictionary,
        "completions": read_json(run.evals / "completions.json")["prompts"],
        "dynamics": read_json(run.evals / "dynamics.json"),
        "hardware": hardware(),
        "seconds": {"total": round(sum(seconds.values()), 1), **seconds},
    }
    write_json(path, results)
    print("\n".join(metric_lines({name: {key: of[key] for key in MAIN} for name, of in results["models"].items()})))


def hardware() -> dict[str, Any]:
    """Return the machine: processor, cores, memory in GiB, and JAX's devices."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(memory, 1),
        "devices": [device.device_kind for device in jax.devices()],
    }


def _processor() -> str:
    """Return the processor's name, on Linux as the kernel gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
