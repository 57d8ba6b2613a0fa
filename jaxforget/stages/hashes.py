"""Hashes of the contents that stages and suites read.

For a folder, the relative names of its files count too. The location of a file or folder does not count.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from jaxforget.config.option import RESULT
from jaxforget.config.schema import EndpointOptions
from jaxforget.corpus.text import Source
from jaxforget.endpoint import complete_options
from jaxforget.models.adapters import CONFIG as ADAPTER
from jaxforget.models.adapters import is_adapter, read_adapter
from jaxforget.models.export import TOKENIZER_FILES
from jaxforget.models.folders import resolve_base
from jaxforget.models.load import INDEX
from jaxforget.stages.run import Run


def hash_source(run: Run, source: Source) -> str:
    """Return the fingerprint of a source of text: the content of its files, its field and its split."""
    return source.fingerprint(run.manifest.hash_path)


def hash_data(run: Run, place: str) -> str:
    """Return the hash of a file or of all files in a folder; the name of a place that does not exist."""
    path = Path(place)
    return run.manifest.hash_path(path) if path.exists() else place


def hash_model(run: Run, folder: Path) -> str:
    """Return the hash of a model's shape and weights, an adapter's with its base; files beside them do not count."""

    def loaded(name: Path) -> bool:
        read = ("config.json", "generation_config.json", INDEX, ADAPTER)
        return len(name.parts) == 1 and (name.name in read or name.suffix == ".safetensors")

    content = run.manifest.hash_path(folder, loaded)
    if not is_adapter(folder):
        return content
    # The run computes its own adapters over its own base, and any other over the base that the adapter names.
    ours = folder in (run.reinforced, run.forgotten, run.unlearned)
    base = hash_model(run, run.base if ours else resolve_base(read_adapter(folder)))
    return hashlib.sha256(f"{content} {base}".encode()).hexdigest()


def hash_tokenizer_files(run: Run, folder: Path, patterns: Sequence[str] = TOKENIZER_FILES) -> str:
    """Return the hash of the small files of a model folder that match, by default its tokenizer."""
    return run.manifest.hash_path(folder, lambda name: any(fnmatch(str(name), pattern) for pattern in patterns))


def describe_endpoint(options: EndpointOptions) -> dict[str, str]:
    """Return the options of an endpoint that its answers depend on, completed from the environment; never the key."""
    complete = complete_options(options)
    return {
        f"endpoint.{field.name}": repr(getattr(complete, field.name))
        for field in dataclasses.fields(complete)
        if field.metadata["affects"] == RESULT
    }


def hash_questions(run: Run) -> dict[str, str]:
    """Return hashes of the questions (evals.*), and how many blocks of text are read."""
    evals = run.config.evals
    places = {"evals.probes": evals.probes, "evals.prompts": evals.prompts, "evals.choices": evals.choices}
    heldout = {} if run.heldout is None else {"evals.heldout": hash_source(run, run.heldout)}
    return {
        **{name: hash_data(run, place) for name, place in places.items() if place is not None},
        **heldout,
        "evals.heldout_blocks": repr(evals.heldout_blocks),
    }


def hash_followed(run: Run) -> dict[str, str]:
    """Return hashes of all that is measured during unlearning: the questions, and the control beside the student."""
    control = {} if run.control is None else {"model.control": hash_model(run, run.control)}
    return {**hash_questions(run), **control}
