"""What a stage or a suite depends on, as hashes of contents: names and places of files change no result."""

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
    """Of a file, or of all files in a folder; of one that is not there, its name."""
    path = Path(place)
    return run.manifest.hash_path(path) if path.exists() else place


def hash_model(run: Run, folder: Path) -> str:
    """Of a model's shape and weights: a README beside them, or the same weights in another form, changes nothing."""

    def loaded(name: Path) -> bool:
        read = ("config.json", "generation_config.json", INDEX, ADAPTER)
        return len(name.parts) == 1 and (name.name in read or name.suffix == ".safetensors")

    return run.manifest.hash_path(folder, loaded)


def hash_tokenizer_files(run: Run, folder: Path, patterns: Sequence[str] = TOKENIZER_FILES) -> str:
    """Of a model folder's small files that match: by default its tokenizer."""
    return run.manifest.hash_path(folder, lambda name: any(fnmatch(str(name), pattern) for pattern in patterns))


def hash_questions(run: Run) -> dict[str, str]:
    """What the models are asked: contents, and how much of them."""
    evals = run.config.evals
    places = {"evals.probes": evals.probes, "evals.prompts": evals.prompts}
    heldout = {} if run.heldout is None else {"evals.heldout": hash_source(run, run.heldout)}
    return {
        **{name: hash_data(run, place) for name, place in places.items() if place is not None},
        **heldout,
        "evals.heldout_blocks": repr(evals.heldout_blocks),
    }


def hash_followed(run: Run) -> dict[str, str]:
    """What is followed while a model forgets: the questions, and the control that stands beside."""
    control = {} if run.control is None else {"model.control": hash_model(run, run.control)}
    return {**hash_questions(run), **control}
