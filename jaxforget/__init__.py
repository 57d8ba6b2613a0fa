"""jaxforget: make a language model forget a text, and show the evidence."""

import importlib

__all__ = [
    "Anchors",
    "Model",
    "complete",
    "evaluate",
    "export",
    "generic_labels",
    "load",
    "logits",
    "method_loss",
    "run",
    "translate",
]


def __getattr__(name: str) -> object:
    # The API is imported on first use, so that `jaxforget --help` need not load JAX.
    if name in __all__:
        return getattr(importlib.import_module("jaxforget.api"), name)
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")
        try:
            return metadata.version("jaxforget")
        except metadata.PackageNotFoundError:  # the code runs from a folder that was never installed
            return "unknown"
    raise AttributeError(f"module 'jaxforget' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
