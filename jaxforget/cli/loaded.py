"""The models that `generate` and `chat` are given: models, or the models of a run."""

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxforget.cli.faults import tell
from jaxforget.config import load_config, naming_options
from jaxforget.errors import UserError
from jaxforget.files import parse_json


@dataclasses.dataclass(frozen=True)
class Place:
    """A model to load: its title, its folder, and the folder of the base that an adapter is laid over."""

    title: str
    folder: Path
    base: Path | None = None


def places_of(given: Sequence[str]) -> list[Place]:
    """Return the models that the words of a command line name.

    A run names its base, its unlearned model and its control. All are checked before the first one is loaded, which
    may take minutes.

    Raises:
      UserError: a folder is no model, or a run has no unlearned model yet.
    """
    from jaxforget.models.folders import read_config, resolve_folder

    places: list[Place] = []
    for word in given:
        if (Path(word) / "config.yaml").is_file():
            found = _of_run(Path(word))
            several = sum((Path(other) / "config.yaml").is_file() for other in given) > 1
            places += [dataclasses.replace(p, title=f"{word}: {p.title}") for p in found] if several else found
        else:
            places.append(Place(word, resolve_folder(word)))
    for place in places:
        read_config(place.base or place.folder)
    return places


def _of_run(folder: Path) -> list[Place]:
    from jaxforget.models.adapters import is_adapter
    from jaxforget.models.folders import read_config
    from jaxforget.stages.run import Run

    run = Run(load_config(folder))
    command = f"jaxforget {run.unlearning[-1]} {shlex.quote(str(folder))}"
    if not run.unlearned.is_dir():
        raise UserError(f"{folder}: this run has no unlearned model yet; run {command}")
    if not any(run.unlearned.glob("*.safetensors")):
        raise UserError(f"{run.unlearned}: its weights are gone; remove the folder, and {command} makes them again")
    with naming_options(run.config):
        over = run.base if is_adapter(run.unlearned) else None
        found = [Place("base", run.base), Place("unlearned", run.unlearned, over)]
    try:
        if run.control is not None:
            read_config(run.control)
            found.append(Place("control", run.control))
    except UserError as error:  # the other models can be asked without it
        tell(f"model.control: left out: {error}")
    return found


def load_all(places: Sequence[Place], dtype: str) -> list[Any]:
    """Return the models, each loaded once; an adapter shares the arrays of its base where that is loaded too."""
    from jaxforget.lm.model import load

    loaded: dict[Path, Any] = {}
    for place in places:
        if place.folder in loaded:
            continue
        base = None
        if place.base is not None:
            base = loaded[place.base] if place.base in loaded else load(place.base, dtype)
        loaded[place.folder] = load(place.folder, dtype, base=base)
    return [loaded[place.folder] for place in places]


def terms_of(given: Sequence[str]) -> list[str]:
    """Return the anchors of the runs among the words of a command line: the terms of their targets."""
    from jaxforget.corpus.dictionary import Anchors

    files = (Path(word) / "anchors.json" for word in given if (Path(word) / "config.yaml").is_file())
    return [term for file in files if file.is_file() for term in Anchors.load(file, keep_all=True).entries]


def read_prompts(path: str) -> list[str]:
    """Return the prompts in a file, or in standard input for "-": one a line; a .json file holds a list of texts.

    Raises:
      UserError: the file cannot be read or holds no prompt.
    """
    if path == "-":
        text = sys.stdin.read()
    else:
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; name a file with one prompt a line") from None
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; name a file with one prompt a line") from None
    if path.endswith(".json"):
        prompts = parse_json(text, path, remedy="give a list of texts")
        if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
            raise UserError(f"{path}: must be a JSON list of texts, or name a text file with one prompt a line")
    else:
        prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"{path}: holds no prompt; write one a line")
    return prompts
