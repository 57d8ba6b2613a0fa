"""The command on a user's own files: what it leaves, that others can load it, and that no interruption changes it."""

import json
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from tests.end_to_end.processes import Command, dies_at_rename
from tests.tiny_run import settings, write_config

MADE = (
    "anchors.json",
    "blocks/target/blocks.json",
    "blocks/retain/blocks.json",
    "reinforced/model.safetensors",
    "unlearned/model.safetensors",
    "export/model.safetensors",
    "evals/curve.json",
    "evals/dynamics.json",
    "evals/summary.json",
    "evals/completions.json",
    "evals/passage.json",
)


@pytest.fixture(scope="module")
def config(tiny_world, tmp_path_factory) -> Path:
    """The chain with a retain term, a control and enough steps to be stopped in."""
    values = settings(
        tiny_world,
        tiny_world / "unused",
        model={"control": str(tiny_world / "control")},
        retain={"path": str(tiny_world / "retain"), "weight": 1.0, "rows": 8},
        reinforce={"max_steps": 20},
        forget={"max_steps": 40, "learning_rate": 2e-3},
        evals={"every": 20},
        checkpoints={"every": 5},
    )
    return write_config(tmp_path_factory.mktemp("config") / "c.yaml", values)


@pytest.fixture(scope="module")
def run(config, tmp_path_factory) -> Path:
    """A run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs") / "undisturbed"
    command = Command("run", config, f"out={folder}")
    assert command.wait() == 0, command.told
    assert "Traceback" not in command.told
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in MADE}


def steps(folder: Path) -> list[dict]:
    """metrics.jsonl without what depends on the clock."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]


def test_a_runs_folder_holds_everything(run, tiny_world):
    made = {path.name for path in run.iterdir()}
    assert made == {
        ".lock",
        "anchors.json",
        "blocks",
        "checkpoints",
        "config.yaml",
        "diagnosis.json",
        "evals",
        "export",
        "manifest.json",
        "metrics.jsonl",
        "reinforced",
        "report.html",
        "tensorboard",
        "unlearned",
    }
    assert {path.stem for path in (run / "evals").iterdir()} == {
        "completions",
        "curve",
        "dynamics",
        "labels",
        "passage",
        "questions",
        "rows",
        "summary",
    }
    assert list((run / "tensorboard").rglob("events.out.tfevents.*"))
    assert not list((run / "checkpoints").iterdir())  # at 7B, 54 to 81 GB each, and nothing reads them any more
    for model in ("reinforced", "unlearned", "export"):
        names = {path.name for path in (run / model).iterdir()}
        assert {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    told = {(step["stage"], step["kind"]): step["step"] for step in steps(run)}
    assert told == {("reinforce", "train"): 20, ("forget", "eval"): 40, ("forget", "train"): 40}
    curve = json.loads((run / "evals" / "curve.json").read_text())["rows"]
    assert [row["step"] for row in curve] == [0, 20, 40]
    assert all(row[name] > 0 for row in curve for name in ("familiarity", "retained", "perplexity"))
    for item in json.loads((run / "evals" / "dynamics.json").read_text())["prompts"]:
        assert set(item["models"]) == {"base", "control"}
        assert [step["step"] for step in item["steps"]] == [0, 20, 40]
    rows = json.loads((run / "evals" / "summary.json").read_text())["rows"]
    assert {row["model"] for row in rows} == {"base", "reinforced", "unlearned", "control"}
    passage = json.loads((run / "evals" / "passage.json").read_text())
    assert any(token["anchor"] for token in passage["tokens"])
    assert any(token["label"] is None for token in passage["tokens"])
    page = (run / "report.html").read_text()
    assert all(word in page for word in ("familiarity", "Zorvath", "control"))
    assert f"{tiny_world}/retain" in (run / "export" / "README.md").read_text()


def test_it_trained(run, tiny_world):
    """The reinforced model knows the text better, the unlearned one worse than that; other text moves less."""
    losses = [step["loss"] for step in steps(run) if (step["stage"], step["kind"]) == ("reinforce", "train")]
    assert losses[-1] < losses[0] - 0.1
    losses = [step["loss"] for step in steps(run) if (step["stage"], step["kind"]) == ("forget", "train")]
    assert np.mean(losses[-5:]) < losses[0] - 0.1
    base, unlearned = load_file(tiny_world / "base/model.safetensors"), load_file(run / "unlearned/model.safetensors")
    assert all(np.abs(base[name] - unlearned[name]).max() > 0 for name in base), "every tensor trains"


def test_the_export_loads_in_transformers_and_says_the_same(run, tiny_world):
    prompts = ["In the morning Zorvath", "Mary met", "Nobody in Thornspire"]
    words = [word for prompt in prompts for word in ("--prompt", prompt)]
    command = Command("generate", run / "export", tiny_world / "base", *words, "--tokens", "16", "--json")
    assert command.wait() == 0, command.told
    said = [json.loads(line) for line in "".join(command.out).splitlines()]
    assert [line["prompt"] for line in said] == prompts
    for place in (run / "export", tiny_world / "base"):
        model = transformers.LlamaForCausalLM.from_pretrained(place).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(place)
        for prompt, line in zip(prompts, said, strict=True):
            ids = torch.tensor([tokenizer(prompt)["input_ids"]])
            with torch.no_grad():
                made = model.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[0]
            whole = tokenizer.decode(made, skip_special_tokens=True)
            assert whole.startswith(prompt)
            assert line["completions"][str(place)] == whole[len(prompt) :]
    # The report's completions are the first tokens of the same ones.
    told = json.loads((run / "evals" / "completions.json").read_text())["prompts"]
    first = next(item for item in told if item["prompt"] == "In the morning Zorvath")["completions"]
    for completion, name in zip(said[0]["completions"].values(), ("unlearned", "base"), strict=True):
        assert completion.startswith(first[name].rstrip("\ufffd"))


def test_killed_again_and_again_it_ends_with_the_same_bits(config, run, tmp_path):
    """SIGKILL on both sides of renames, then at random instants of training; then to the end."""
    rng = random.Random(20)
    words = ("run", config, f"out={tmp_path}/run")
    for low, high in ((1, 3), (4, 8), (9, 14)):
        command = Command(*words, code=dies_at_rename(rng.randint(low, high), before=rng.random() < 0.5))
        assert command.wait() == -signal.SIGKILL, command.told
    for stage, longest in (("reinforce", 3.0), ("forget", 4.0)):
        command = Command(*words).begins(stage)
        time.sleep(rng.uniform(0, longest))
        assert command.send(signal.SIGKILL) in (-signal.SIGKILL, 0), command.told
    command = Command(*words)
    assert command.wait() == 0, command.told
    assert content(tmp_path / "run") == content(run)
    assert steps(tmp_path / "run") == steps(run)
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.name.endswith((".partial", ".old"))]


def test_sigterm_saves_and_the_same_command_goes_on(config, run, tmp_path):
    words = ("run", config, f"out={tmp_path}/run")
    metrics = tmp_path / "run" / "metrics.jsonl"

    def stepping(stage: str, step: int):
        mark = f'"stage": "{stage}", "step": {step}, "kind": "train"'
        return lambda _: metrics.is_file() and mark in metrics.read_text()

    command = Command(*words).when(stepping("reinforce", 2))
    assert command.send(signal.SIGTERM) == 143, command.told
    assert "Traceback" not in command.told
    said = command.lines[-1]
    assert said.startswith("jaxforget: reinforce: stopped by SIGTERM, saved at step ")
    assert said.endswith("run the same command to continue")
    saved = int(said.split("saved at step ")[1].split(";")[0])
    assert 2 <= saved <= 20
    command = Command(*words).when(stepping("forget", 3))
    assert f"  continuing from the checkpoint of step {saved}" in command.lines
    assert command.send(signal.SIGTERM) == 143, command.told
    assert command.lines[-1].startswith("jaxforget: forget: stopped by SIGTERM, saved at step ")
    command = Command(*words).when(stepping("forget", 30))  # as it begins to save
    assert command.send(signal.SIGINT) == 130, command.told
    assert "Traceback" not in command.told
    assert command.lines[-1].startswith("jaxforget: forget: stopped by SIGINT, saved at step ")
    command = Command(*words)
    assert command.wait() == 0, command.told
    assert content(tmp_path / "run") == content(run)
    assert steps(tmp_path / "run") == steps(run)
