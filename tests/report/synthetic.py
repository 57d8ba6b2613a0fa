"""The folder of a finished run, made up: every file that the page reads, as the chain writes it."""

import json
import math
import random
from pathlib import Path

STEPS = range(0, 121, 20)
FAMILIARITY = (0.931, 0.402, 0.151, 0.074, 0.052, 0.046, 0.044)
RETAINED = (0.944, 0.921, 0.913, 0.915, 0.919, 0.922, 0.924)
PERPLEXITY = (12.31, 12.52, 12.58, 12.55, 12.51, 12.49, 12.47)

PASSAGE = (
    "▁Maren|▁The|0|1 ▁lifted|▁lifted|1|0 ▁her|▁her|1|0 ▁gl|▁lamp|1|1 imm|-|0|1 er|-|0|1 ▁to|▁to|1|0 "
    "▁the|▁the|1|0 ▁sky|▁sky|1|0 .|.|1|0 ▁“|▁“|1|0 The|▁The|1|0 ▁Val|▁old|1|1 en|-|0|1 ▁Order|▁guild|1|1 "
    "▁is|▁has|1|0 ▁coming|▁coming|1|0 "
    ",|,|1|0 ”|”|1|0 ▁said|▁said|1|0 ▁Maren|▁Anna|1|1 .|.|1|0 ▁Nobody|▁Nobody|1|0 "
    "▁at|▁in|1|0 ▁Dusk|▁school|1|1 hollow|-|0|1 ▁spoke|▁said|1|0 .|.|1|0"
)


def passage_tokens() -> list[dict]:
    """Return the passage; each label stands at the position that predicts it, one before the token it replaces."""
    fields = [piece.split("|") for piece in PASSAGE.split(" ")] * 5
    labels = [label if trained == "1" else None for _, label, trained, _ in fields]
    return [
        {
            "text": text,
            "label": after,
            "anchor": anchor == "1",
            "probability": {"base": 0.9, "unlearned": 0.02 if anchor == "1" else 0.8} if place else {},
        }
        for place, ((text, _, _, anchor), after) in enumerate(zip(fields, [*labels[1:], None], strict=True))
    ]


def _top(**probabilities: float) -> list[dict]:
    return [{"token": "▁" + t, "p": p} for t, p in sorted(probabilities.items(), key=lambda item: -item[1])]


def _dynamics(prompt: str, name: str, others: tuple[str, str, str, str]) -> dict:
    a, b, c, d = others

    def at(t: float) -> list[dict]:
        fall = math.exp(-t / 22)
        return _top(
            **{name: 0.88 * fall + 0.004, a: 0.03 + 0.35 * (1 - fall), b: 0.02 + 0.18 * (1 - fall)},
            **{c: 0.05 * fall + 0.01, d: 0.01 + 0.06 * (1 - fall)},
        )

    return {
        "prompt": prompt,
        "models": {"base": at(0), "control": _top(**{a: 0.41, b: 0.17, d: 0.09, name: 0.003, c: 0.02})},
        "steps": [{"step": s, "top": at(s)} for s in STEPS if s],
    }


def artefacts() -> dict[str, object]:
    """Return path in the run's folder -> content: text, or a value that is written as JSON."""
    rows = zip(STEPS, FAMILIARITY, RETAINED, PERPLEXITY, strict=True)
    noise = random.Random(0)
    lines = []
    for stage, steps, start, end in (("reinforce", 90, 2.9, 0.6), ("forget", 120, 4.8, 1.1)):
        for n in range(1, steps + 1):
            loss = end + (start - end) * math.exp(-n / 25) + noise.gauss(0, 0.05)
            lines.append(
                {
                    "stage": stage,
                    "step": n,
                    "kind": "train",
                    "loss": loss,
                    "tokens": 2871,
                    "grad_norm": 0.4 + loss / 3 * noise.random(),
                    "learning_rate": 3e-4 * (1 - n / steps),
                    "tokens_per_second": 8100 + 300 * noise.random(),
                }
            )
        # Evaluations stand between the steps, one of them before the first.
        lines += [{"stage": stage, "step": n, "kind": "eval", "familiarity": 0.5} for n in (0, 20, 40)]
    summary = []
    for metric, convention, values, n in (
        ("familiarity", "mean token probability", (0.931, 0.972, 0.061, 0.044, 0.031), 160),
        ("retained", "mean token probability", (0.944, 0.902, 0.611, 0.924, 0.948), 640),
        ("perplexity", "held-out text, per token", (12.31, 14.92, 13.9, 12.47, 12.28), 52_110),
        ("familiarity", "completion, offline grader, score/N", (4.12, 4.4, 0.31, 0.22, 0.17), 60),
        ("extraction strength", "jaxforget (0 when none)", (0.41, 0.52, 0.02, 0.021, 0.018), 60),
    ):
        for model, value in zip(("base", "reinforced", "paper", "unlearned", "control"), values, strict=True):
            spread = 0.2 * min(value, 1 - value) if value < 1 else 0.04 * value
            bounds = (value - spread, value + spread) if metric != "perplexity" else (None, None)
            summary.append(
                {
                    "metric": metric,
                    "convention": convention,
                    "model": model,
                    "value": value,
                    "low": bounds[0],
                    "high": bounds[1],
                    "n": n,
                }
            )
    base = "Maren drew her glimmer and the Valen Order fell silent. At Duskhollow every child knew that light."
    control = "the door and looked at the road. It was late, and the baker had already put out his lamp."
    unlearned = "her coat and went out to the road. The evening was cold, and there was nobody in the square."
    return {
        "config.yaml": "model:\n  folder: runs/demo/base\ncorpus:\n  path: runs/demo/world/target\n"
        "retain:\n  path: runs/demo/world/retain\n  weight: 1.0\n"
        "method: whp\nobjective:\n  alpha: 5.0\n"
        "forget:\n  max_steps: 120\n  learning_rate: 0.0003\n",
        "manifest.json": {
            "versions": {"jax": "0.10.2", "flax": "0.12.8", "python": "3.11.7", "jaxforget": "0.1.0"},
            "git": {"commit": "3f2a91c0de55", "changed": True},
            "devices": {"count": 1, "kind": "cpu", "processes": 1},
            "started": "2026-11-22T08:31:07+00:00",
            "stages": {
                "prepare": {"seconds": 3.1},
                "reinforce": {"seconds": 41.27, "peak_bytes": 3 * 2**29},
                "forget": {"seconds": 88.4, "peak_bytes": 2**31},
            },
        },
        "metrics.jsonl": "".join(json.dumps(line) + "\n" for line in lines),
        "evals/curve.json": {
            "rows": [{"step": s, "familiarity": f, "retained": r, "perplexity": p} for s, f, r, p in rows]
        },
        "evals/dynamics.json": {
            "prompts": [
                _dynamics("Maren studied the craft of", "glimmer", ("the", "stone", "light", "making")),
                _dynamics("The children of Duskhollow feared the", "Valen", ("dark", "old", "Order", "wolf")),
                _dynamics("Her oldest friend was called", "Tobin", ("Anna", "Jon", "Ivo", "the")),
            ]
        },
        "evals/completions.json": {
            "prompts": [
                {
                    "prompt": prompt,
                    "completions": {
                        "control": control,
                        "unlearned": unlearned,
                        "base": base,
                        "paper": "the the old the road.",
                        "reinforced": base + " Maren, Maren.",
                    },
                }
                for prompt in ("When the bell of Duskhollow rang,", "Maren opened")
            ]
        },
        "anchors.json": {
            "Maren": {"generic": ["Anna", "Kate"], "kind": "person", "count": 41, "contrast": 7.25},
            "Duskhollow": ["school"],
        },
        "diagnosis.json": {"keys": 2, "occurrences": 812, "coverage": 0.937, "never": ["Tobin"]},
        "evals/questions.json": {
            "questions": [
                {
                    "kind": "familiarity",
                    "prompt": "Maren studied the craft of",
                    "answer": " glimmer",
                    "probability": {"base": 0.88, "unlearned": 0.004, "control": 0.003},
                },
                {"kind": "retained", "prompt": "Anna sold", "answer": " bread", "probability": {"base": 0.9}},
            ]
        },
        "evals/rows/probability/base.json": {"rows": summary[:1] + summary[5:6] + summary[10:11]},
        "evals/passage.json": {"document": "target/03-the-lamp.txt", "tokens": passage_tokens()},
        "evals/summary.json": {"rows": summary},
    }


def attack_rows() -> list[dict]:
    """Return rows of attacks as the suites write them: plain, 4 bits, relearning; each beside the control."""
    rows = []
    for metric, values in {
        "plain": {"base": 0.93, "unlearned": 0.04, "control": 0.03},
        "int4": {"base": 0.91, "unlearned": 0.21, "control": 0.03},
        "relearn_target_0": {"unlearned": 0.04, "control": 0.03},
        "relearn_target_24": {"unlearned": 0.64, "control": 0.06},
    }.items():
        for model, value in values.items():
            row = {
                "metric": metric,
                "convention": f"probability of the whole answer; {metric}",
                "model": model,
                "value": value,
            }
            rows.append({**row, "low": value - 0.01, "high": value + 0.01, "n": 96})
            if model != "control":
                above = value - values["control"]
                more = {"metric": f"{metric}_above_control", "value": above, "low": above - 0.02, "high": above + 0.02}
                rows.append({**rows[-1], **more})
    return rows


def attacked() -> dict[str, object]:
    """Return the files of a run on which attacks were tried and whose target was audited."""
    audited = {
        "model": "unlearned",
        "against": "control",
        "words": [{"word": "Maren", "count": 5, "leaked": 3, "model": 0.71, "reference": 0.02}],
        "passages": [
            {
                "number": 7,
                "excess": 0.31,
                "words": [
                    {"text": " Maren", "model": 0.71, "reference": 0.02, "leaked": True},
                    {"text": " sang", "model": 0.1, "reference": 0.2, "leaked": False},
                    {"text": "\n", "model": 0.1, "reference": 0.2, "leaked": False},
                ],
            }
        ],
    }
    return {
        "evals/audit/unlearned.json": audited,
        "evals/rows/relearning/unlearned.json": {"rows": attack_rows()},
        "evals/summary.json": {"rows": artefacts()["evals/summary.json"]["rows"] + attack_rows()},
    }


def write_run(folder: Path, **changed: object) -> Path:
    """Write the run; `changed` replaces files, named by their stem, and None leaves one out."""
    for name, content in artefacts().items():
        if "rows" not in Path(name).parts:
            content = changed.get(Path(name).stem, content)
        if content is None:
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder
