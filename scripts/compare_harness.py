#!/usr/bin/env python3
"""Compare our multiple choice with lm-evaluation-harness on given documents and models: agreement and speed.

    .venv/bin/python scripts/compare_harness.py runs/demo/world/choices runs/demo/base runs/demo/unlearned

CHOICES is a value of evals.choices: a .jsonl file or a folder of such files. Every MODEL (whole weights) answers each
file three times: as a task of the harness by the harness's own Hugging Face model, as the same task by our model in the
harness, and as suite=multiple_choice. The exit status is 1 if acc or acc_norm of any document differ.

The first model is then timed on --speed documents made from the same ones (0: no timing), with their answers and with
longer answers: suite=multiple_choice, our model in the harness, and the harness's own model at each of --batches (its
default is 1). The sides take turns, the fastest of --rounds counts, and all times include the tokenizer.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import bench.command as command
import numpy as np

import jaxforget
from jaxforget.errors import UserError
from jaxforget.evals.harness import harness_model
from jaxforget.evals.multiple_choice import Document, choice_likelihoods, load_choices, right_answers
from jaxforget.evals.scorers import continuation_scorer
from jaxforget.models.adapters import is_adapter

METRICS = ("acc", "acc_norm")
TASK = "choices"
OPENINGS = ("", "Of course, ", "People say that ", "In those days ", "It is true that ")
LONGER = ", and everybody knew it."


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = command.Parser(__file__, __doc__)
    count = command.number(int, 1)
    parser.add_argument("choices", metavar="CHOICES", type=Path)
    parser.add_argument("models", metavar="MODEL", type=Path, nargs="+")
    parser.add_argument("--limit", type=count, help="compare only the first LIMIT documents of each file [all]")
    parser.add_argument("--speed", type=command.number(int, 0), default=1000, help="documents to time [1000]")
    parser.add_argument(
        "--batches", type=count, nargs="+", default=[1, 16, 64], help="batch sizes of the harness's own model [1 16 64]"
    )
    parser.add_argument("--rounds", type=count, default=3, help="rounds of each timing [3]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args(words)


def read_files(place: Path) -> dict[str, list[Document]]:
    """Return the documents of every file by the file's name."""
    if not place.exists():
        raise UserError(f"{place}: no such file or folder; name documents as evals.choices does")
    files = sorted(place.glob("*.jsonl")) if place.is_dir() else [place]
    if not files:
        raise UserError(f"{place}: holds no .jsonl file")
    return {file.stem: load_choices(file) for file in files}


def own_model(folder: Path, batch: int) -> Any:
    """Return the harness's own Hugging Face model."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=batch)


def as_task(documents: list[Document], lm: Any) -> dict[str, np.ndarray]:
    """Run `documents` as a task of the harness on `lm`; return acc and acc_norm, bool [documents], and likelihoods."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder, "documents.jsonl")
        fields = ({"context": d.context, "choices": d.choices, "answer": d.answer} for d in documents)
        data.write_text("".join(json.dumps(field) + "\n" for field in fields))
        described = {
            "task": TASK,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(Path(folder, "cache"))},
            "output_type": "multiple_choice",
            "test_split": "test",
            "doc_to_text": "{{context}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS],
        }
        Path(folder, f"{TASK}.yaml").write_text(json.dumps(described))
        manager = TaskManager(include_path=folder, include_defaults=False)
        found = simple_evaluate(lm, tasks=[TASK], task_manager=manager, log_samples=True, bootstrap_iters=0)
    items = sorted(found["samples"][TASK], key=lambda item: item["doc_id"])
    right = {metric: np.array([bool(item[metric]) for item in items]) for metric in METRICS}
    return right | {"sums": np.array([float(answer[0][0]) for item in items for answer in item["resps"]])}


def as_suite(documents: list[Document], model: jaxforget.Model) -> dict[str, np.ndarray]:
    """Return what `as_task` returns, computed by suite=multiple_choice."""
    length = model.config.max_position_embeddings
    sums = choice_likelihoods(documents, continuation_scorer(model), model.tokenizer, max_length=length)
    right = right_answers(documents, sums)
    return {metric: right[metric] for metric in METRICS} | {"sums": np.concatenate(sums)}


def agreement(documents: list[Document], model: jaxforget.Model, own: Any) -> dict[str, Any]:
    """Return the differences of our two sides from the harness's own model."""
    reference = as_task(documents, own)
    sides = {"suite": as_suite(documents, model), "in the harness": as_task(documents, harness_model(model))}
    told: dict[str, Any] = {"documents": len(documents)}
    for metric in METRICS:
        told[metric] = {"value": float(reference[metric].mean())}
        for name, side in sides.items():
            # Indices of the documents that differ.
            told[metric][name] = [int(i) for i in np.flatnonzero(side[metric] != reference[metric])]
    apart = max(float(np.abs(side["sums"] - reference["sums"]).max()) for side in sides.values())
    return told | {"likelihoods apart": apart}


def more_documents(known: list[Document], count: int) -> list[Document]:
    """Return at most `count` documents made from the known ones; a different opening makes each a new text."""
    many = [Document(opening + d.context, d.choices, d.answer) for opening in OPENINGS for d in known]
    return random.Random(0).sample(many, min(count, len(many)))


def speed(documents: list[Document], model: jaxforget.Model, folder: Path, batches: list[int], rounds: int) -> dict:
    """Return documents per second of every side, after a warm-up."""
    from lm_eval.api.instance import Instance

    pairs = [pair for document in documents for pair in document.pairs()]
    asked = [Instance("loglikelihood", {}, (context, " " + choice), i) for i, (context, choice) in enumerate(pairs)]

    def through(lm: Any) -> Callable[[], np.ndarray]:
        return lambda: np.array([value for value, _ in lm.loglikelihood(asked, disable_tqdm=True)])

    ways = {"ours": lambda: as_suite(documents, model)["sums"], "ours in the harness": through(harness_model(model))}
    ways |= {f"its own, batch_size {batch}": through(own_model(folder, batch)) for batch in batches}
    found = {name: way() for name, way in ways.items()}
    apart = max(float(np.abs(sums - found["ours"]).max()) for sums in found.values())
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - began)
    rates = {name: len(documents) / seconds for name, seconds in best.items()}
    its = [rates[f"its own, batch_size {batch}"] for batch in batches]
    return {
        "documents": len(documents),
        "choices": documents[0].choices,
        "documents a second": rates,
        "ours over its own": {"first batch size": rates["ours"] / its[0], "best batch size": rates["ours"] / max(its)},
        "likelihoods apart": apart,
    }


def as_text(result: dict[str, Any]) -> str:
    """Return the result as text."""
    lines = []
    for model, files in result["agreement"].items():
        lines.append(f"{model}: documents whose figures differ from those of the harness's own model")
        for name, told in files.items():
            for metric in METRICS:
                found = told[metric]
                sides = ", ".join(f"{side} {len(found[side])}" for side in found if side != "value")
                lines.append(f"  {name:12} {metric:8} {found['value']:.4f}  of {told['documents']}: {sides}")
            lines.append(f"  {name:12} log-likelihoods at most {told['likelihoods apart']:.1e} apart")
    for table in result["speed"]:
        lines.append(f"{table['documents']} documents such as {' / '.join(table['choices'])}")
        for name, rate in table["documents a second"].items():
            lines.append(f"  {name:24} {rate:8.0f} documents/s")
        ratios = table["ours over its own"]
        lines.append(
            f"  ours: {ratios['first batch size']:.1f} x its first batch size, {ratios['best batch size']:.1f} x its "
            f"best; log-likelihoods at most {table['likelihoods apart']:.1e} apart"
        )
    return "\n".join(lines)


def main(words: Sequence[str]) -> int:
    """Print the comparison; return 1 if documents differ."""
    given = parse(words)
    files = read_files(given.choices)
    for package in ("lm_eval", "torch", "accelerate"):  # the harness and the needs of its own model
        command.require(package, "scripts/test installs it")
    result: dict[str, Any] = {"agreement": {}, "speed": [], "load": os.getloadavg()[0]}
    for folder in given.models:
        model = jaxforget.load(folder)
        if is_adapter(folder):
            raise UserError(f"{folder}: is an adapter, which the harness's own model does not read; name an export")
        own = own_model(folder, given.batches[-1])
        told = {name: agreement(documents[: given.limit], model, own) for name, documents in files.items()}
        result["agreement"][str(folder)] = told
        if folder == given.models[0] and given.speed:
            some = more_documents([d for documents in files.values() for d in documents], given.speed)
            for ending in ("", LONGER):
                documents = [Document(d.context, tuple(c + ending for c in d.choices), d.answer) for d in some]
                result["speed"].append(speed(documents, model, folder, given.batches, given.rounds))
    print(json.dumps(result, indent=1) if given.json else as_text(result))
    parts = [
        side for files in result["agreement"].values() for told in files.values() for side in map(told.get, METRICS)
    ]
    return int(any(found for part in parts for name, found in part.items() if name != "value"))


if __name__ == "__main__":
    command.run(__file__, main)
