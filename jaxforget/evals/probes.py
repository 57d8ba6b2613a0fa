"""The user's own questions: probes with answers, and prompts to complete or to track."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError
from jaxforget.evals.suite import MissingInput, RunInputs
from jaxforget.files import read_json


@dataclasses.dataclass(frozen=True)
class Probe:
    """A prompt and its answer; the answer begins with the space that separates it from the prompt."""

    prompt: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Probes:
    """Questions.

    Attributes:
      familiarity: questions that only the target answers.
      retained: the same kind of questions about other text.
    """

    familiarity: tuple[Probe, ...] = ()
    retained: tuple[Probe, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts.

    Attributes:
      dynamics: prompts whose next tokens are tracked during unlearning.
      completions: prompts that every model completes.
    """

    dynamics: tuple[str, ...] = ()
    completions: tuple[str, ...] = ()


def load_probes(path: str | Path | None) -> Probes:
    """Read `{"familiarity": [{"prompt", "answer"}], "retained": [...]}`; None gives none."""
    if path is None:
        return Probes()
    groups = _groups(path, ("familiarity", "retained"))
    return Probes(
        **{
            name: tuple(read_probe(item, f"{path}: {name}[{i}]") for i, item in enumerate(items))
            for name, items in groups.items()
        }
    )


def load_familiarity(path: str | Path) -> Probes:
    """Read probes as `load_probes`; raise `UserError` if there are no familiarity questions."""
    probes = load_probes(path)
    if not probes.familiarity:
        raise UserError(f"{path}: holds no familiarity questions, which attacks ask; add some")
    return probes


def familiarity_path(run: RunInputs) -> Path:
    """Return the path of the run's probes for suites that ask the familiarity questions.

    Raises:
      MissingInput: there are none.
    """
    place = run.config.evals.probes
    if place is None:
        raise MissingInput('evals.probes is not set; it names questions, {"familiarity": [{"prompt", "answer"}]}')
    if not load_probes(place).familiarity:
        raise MissingInput(f"evals.probes={place}: holds no familiarity questions; add some")
    return Path(place)


def load_prompts(path: str | Path | None) -> Prompts:
    """Read `{"dynamics": [prompt], "completions": [prompt]}`; None gives none."""
    if path is None:
        return Prompts()
    groups = _groups(path, ("dynamics", "completions"))
    for name, items in groups.items():
        for i, item in enumerate(items):
            if not isinstance(item, str) or not item.strip():
                raise UserError(f"{path}: {name}[{i}] is {item!r}; it must be a text that is not empty")
    return Prompts(**{name: tuple(items) for name, items in groups.items()})


def _groups(path: str | Path, names: tuple[str, ...]) -> dict[str, list[Any]]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: it must be an object with the lists {' and '.join(names)}")
    for name, items in value.items():
        if name not in names:
            raise UserError(f"{path}: unknown key {name!r}; the keys are {' and '.join(names)}")
        if not isinstance(items, list):
            raise UserError(f"{path}: {name} must be a list")
    return value


def read_probe(item: Any, where: str) -> Probe:
    """A probe from what a JSON file holds; `where` is what a fault is told beside."""
    for field in ("prompt", "answer"):
        if not isinstance(item, dict) or not isinstance(item.get(field), str) or not item[field].strip():
            raise UserError(
                f'{where}: needs {{"prompt": text, "answer": text}}, neither empty; {field} is missing or empty'
            )
    return Probe(item["prompt"], item["answer"])
