"""Hashes of the contents that stages and suites read.

For a folder, the relative names of its files count too. The location of a file or folder does not count.
"""

from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from jaxforget.corpus.text import Source
from jaxforget.models.adapters import CONFIG as ADAPTER
from jaxforget.models.export import TOKENIZER_FILES
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
    """Return the hash of a model's shape and weights; other files beside them do not count."""

    def loaded(name: Path) -> bool:
        read = ("config.json", "generation_config.json", INDEX, ADAPTER)
        return len(name.parts) == 1 and (name.name in read or name.suffix == ".safetensors")

    return run.manifest.hash_path(folder, loaded)


def hash_tokenizer_files(run: Run, folder: Path, patterns: Sequence[str] = TOKENIZER_FILES) -> str:
    """Return the hash of the small files of a model folder that match, by default its tokenizer."""
    return run.manifest.hash_path(folder, lambda name: any(fnmatch(str(name), pattern) for pattern in patterns))


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
