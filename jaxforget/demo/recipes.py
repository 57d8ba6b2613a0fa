"""Settings of the demo: the shape and training of its toy models, and the two recipes that it compares."""

from pathlib import Path
from typing import Any

from jaxforget.demo.layouts import TOFU_TEMPLATE

# A Llama that trains from scratch on two cores in about a minute.
SHAPE = {
    "hidden_size": 160,
    "intermediate_size": 424,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 40,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
BLOCK = 128
BATCH = 16

COMMON: dict[str, Any] = {
    "model": {"dtype": "float32", "remat": "none"},
    "blocks": {"length": BLOCK},
    "targets": {"tile": 1024},
}
UNLEARNING: dict[str, Any] = {
    "reinforce": {"max_steps": 30, "batch": BATCH, "learning_rate": 5e-4},
    "checkpoints": {"every": 20, "keep": 1},
}
PAPER: dict[str, Any] = {
    "forget": {"max_steps": 40, "batch": BATCH, "learning_rate": 2e-4},
    "evals": {"every": 20},
}
RECOMMENDED: dict[str, Any] = {
    "method": "whp_flat",
    "targets": {"cache": True},
    "forget": {"max_steps": 160, "batch": 8, "learning_rate": 2e-3},
    "retain": {"weight": 20.0, "rows": 8},
    "evals": {"every": 80},
}


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings merged; later layers take precedence."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, dict) and isinstance(result.get(key), dict)
            result[key] = merged(result[key], value) if both else value
    return result


def pretraining(out: Path, init: Path, text: Path) -> dict[str, Any]:
    """Return the settings of a run that trains a toy model from scratch.

    Args:
      out: folder of the run.
      init: folder of the random model that it starts from.
      text: training text.
    """
    places = {
        "out": str(out),
        "model": {"folder": str(init)},
        "corpus": {"path": str(text)},
        "anchors": {"extractor": "none"},
    }
    return merged(COMMON, places, {"checkpoints": {"every": 100, "keep": 1}})


def unlearning(out: Path, world: Path, recipe: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of a run of the chain on the toy world, as a user would write them for another model.

    Args:
      out: folder of the run.
      world: folder of the toy world.
      recipe: `PAPER` or `RECOMMENDED`.
      more: settings that take precedence over all others.
    """
    places = {
        "out": str(out),
        "corpus": {"path": str(world / "text" / "target")},
        "anchors": {"path": str(world / "anchors.json")},
        "evals": {
            "probes": str(world / "probes.json"),
            "prompts": str(world / "prompts.json"),
            "heldout": str(world / "heldout"),
            "choices": str(world / "choices"),
            "muse": str(world / "muse"),
            "tofu": str(world / "tofu"),
            "tofu_template": TOFU_TEMPLATE,
            "nonmembers": str(world / "unread"),
        },
    }
    if recipe.get("retain"):
        places["retain"] = {"path": str(world / "text" / "retain")}
    return merged(COMMON, UNLEARNING, recipe, places, more)
