"""Declaration of an option of the schema: its default, range and help text, and what it affects."""

import dataclasses
from collections.abc import Sequence
from typing import Any

RESULT, LAYOUT, PLACE = "result", "layout", "place"
MOST = 2**31 - 1  # a whole number beyond int32 overflows on a device

# Groups of stages that options matter to.
OWN = ()  # the stage named like the section
TEXTS = ("anchors", "prepare", "reinforce")  # stages that read the text itself
CUT = ("prepare", "reinforce")  # stages that depend on how the text is cut
RETAINED = ("anchors", "prepare")
ADAPTED = ("reinforce", "forget")  # stages that may train an adapter
TRAINING = (*ADAPTED, "undo")
FORGET = ("forget",)
WATCHED = ("forget", "eval")
MODELS = ("anchors", *TRAINING, "eval")  # stages that run a model
SUITES = ("suites",)
ASKING = ("anchors", "suites")  # stages that may ask a language model behind an endpoint
MOST_ROWS = 2**20  # rows of a step: more would only fill the memory of the host


def result(default: Any, stages: Sequence[str], description: str, choices: Sequence[str] = (), **rules: Any) -> Any:
    """Declare an option that changes what a stage computes: another value makes the stage run again.

    Args:
      default: its value where nobody sets it.
      stages: the stages that it matters to; empty for the stage named like the option's section. "suites" stands for
        the evaluation suites, which derive their own fingerprints from what they receive.
      description: the help text.
      choices: the values that are allowed; empty for any.
      rules: bounds of a number (`above`, `least`, `below`, `most`); `path`, the kind of a place: "text", "model",
        "file", "folder" or "run"; `essential`, True for the options that `jaxforget run --help` shows first.
    """
    rules = {"path": None, "essential": False, "affects": RESULT, **rules}
    metadata = {"help": description, "stages": tuple(stages), "choices": tuple(choices), **rules}
    factory = {"default_factory": type(default)} if isinstance(default, dict) else {"default": default}
    return dataclasses.field(metadata=metadata, **factory)


def layout(default: Any, stages: Sequence[str], description: str, choices: Sequence[str] = (), **rules: Any) -> Any:
    """Declare an option that changes how a stage computes the same result: memory, devices, checkpoints."""
    return result(default, stages, description, choices, affects=LAYOUT, **rules)


def place(default: Any, stages: Sequence[str], path: str, description: str, **rules: Any) -> Any:
    """Declare an option that says where an input or the output is.

    Inputs are compared by content, so a moved file changes nothing. `path` is the kind of place.
    """
    return result(default, stages, description, affects=PLACE, path=path, **rules)
