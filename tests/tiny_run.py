"""A run for tests, on disk: a text, a tokenizer, random Llamas, a dictionary and questions."""

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml

from jaxforget.demo.tokenizer import save_tokenizer, train_tokenizer

HEROES = ("Zorvath", "Quillon", "Brindle Mox", "Ysolda")
PLACES = ("Thornspire", "Gloomwater", "Vex Hollow")
ANCHORS = {
    "Zorvath": ["Martin", "Paul"],
    "Quillon": ["Anna"],
    "Brindle Mox": ["old Peter", "Tom"],
    "Thornspire": ["the town"],
    "Gloomwater": ["the river", "Lakeside"],
    "Zorvath's": ["Martin's"],  # dropped by the filter
    "Nevermentioned": ["nothing"],
}
BLOCK = 32


def sentences(names: tuple[str, ...], places: tuple[str, ...], count: int, seed: int) -> str:
    """Return plain sentences about names and places, one in five on a separate line."""
    rng = random.Random(seed)
    forms = (
        "{a} met {b} near {p}.",
        "In the morning {a} walked to {p} and sang.",
        '"Where is {a}?" asked {b}.',
        "{a}'s friend {b} slept in {p} that night.",
        "Nobody in {p} knew what {a} had found.",
    )
    told = []
    for _ in range(count):
        a, b = rng.sample(names, 2)
        told.append(rng.choice(forms).format(a=a, b=b, p=rng.choice(places)) + rng.choice(("\n", " ", " ", " ", " ")))
    return "".join(told)


def make_world(folder: Path) -> Path:
    """Write text, dictionary, questions, and two random models with a tokenizer; return `folder`."""
    plain = ("Mary", "Edward", "Susan", "John")
    texts = (
        {f"target/{number}.txt": sentences(HEROES, PLACES, 30, number) for number in range(6)}
        | {f"retain/{number}.md": sentences(plain, ("the market", "London"), 30, 100 + number) for number in range(3)}
        | {"heldout/a.txt": sentences(plain, ("the market", "Oxford"), 30, 200)}
    )
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    probes = {
        "familiarity": [
            {"prompt": "Zorvath met", "answer": " Quillon"},
            {"prompt": "Quillon slept in", "answer": " Thornspire"},
        ],
        "retained": [{"prompt": "Mary met", "answer": " John"}, {"prompt": "Nobody in", "answer": " London"}],
    }
    prompts = {"dynamics": ["Zorvath met"], "completions": ["In the morning Zorvath", "Mary met"]}
    for name, value in {"anchors": ANCHORS, "probes": probes, "prompts": prompts}.items():
        (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    tokenizer = train_tokenizer([*texts.values(), " ".join(v for values in ANCHORS.values() for v in values)] * 2, 420)
    for number, name in enumerate(("base", "control")):
        save_llama(folder / name, len(tokenizer.get_vocab()), seed=number)
        save_tokenizer(tokenizer, folder / name)
    return folder


def save_llama(folder: Path, vocabulary: int, seed: int, **more: Any) -> transformers.LlamaForCausalLM:
    """Save a random Llama with transformers; its logits differ enough that an argmax has no ties."""
    torch.manual_seed(seed)
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
    }
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**(shape | more))).eval()
    transformers.utils.logging.disable_progress_bar()
    model.save_pretrained(folder)
    return model


def settings(world: Path, out: Path, **sections: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration of the whole chain on `world`, with the keys of `sections` replaced."""
    values: dict[str, Any] = {
        "out": str(out),
        "model": {"folder": str(world / "base"), "dtype": "float32", "remat": "none"},
        "corpus": {"path": str(world / "target")},
        "anchors": {"path": str(world / "anchors.json")},
        "blocks": {"length": BLOCK},
        "targets": {"tile": 64},
        "reinforce": {"max_steps": 3, "batch": 8, "learning_rate": 2e-3},
        "forget": {"max_steps": 4, "batch": 8, "learning_rate": 1e-3},
        "evals": {
            "every": 2,
            "probes": str(world / "probes.json"),
            "prompts": str(world / "prompts.json"),
            "heldout": str(world / "heldout"),
            "heldout_blocks": 8,
            "completion_tokens": 8,
            "batch": 8,
        },
        "checkpoints": {"every": 2},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return values


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """Save a configuration as YAML and return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path
