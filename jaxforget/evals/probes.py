"""The user's own questions: probes with answers, and prompts to complete or to track."""

import dataclasses
from pathlib import Path

import pydantic

from jaxforget.errors import UserError
from jaxforget.evals.suite import MissingInput, RunInputs
from jaxforget.files import Text, read_model

# An unknown key is refused, because it may be a misspelt one.
NO_OTHERS = pydantic.ConfigDict(extra="forbid")


@dataclasses.dataclass(frozen=True)
class Probe:
    """A prompt and its answer; the answer begins with the space that separates it from the prompt."""

    # Notes beside a question are allowed.
    __pydantic_config__ = pydantic.ConfigDict(extra="ignore")

    prompt: Text
    answer: Text


@dataclasses.dataclass(frozen=True)
class Probes:
    """Questions.

    Attributes:
      familiarity: questions that only the target answers.
      retained: the same kind of questions about other text.
    """

    __pydantic_config__ = NO_OTHERS

    familiarity: tuple[Probe, ...] = ()
    retained: tuple[Probe, ...] = ()


@dataclasses.dataclass(frozen=True)
class Prompts:
    """Prompts.

    Attributes:
      dynamics: prompts whose next tokens are tracked during unlearning.
      completions: prompts that every model completes.
    """

    __pydantic_config__ = NO_OTHERS

    dynamics: tuple[Text, ...] = ()
    completions: tuple[Text, ...] = ()


def load_probes(path: str | Path | None) -> Probes:
    """Read `{"familiarity": [{"prompt", "answer"}], "retained": [...]}`; None gives none.

    Raises:
      UserError: the file is missing or malformed.
    """
    if path is None:
        return Probes()
    remedy = 'give a file of {"familiarity": [{"prompt": text, "answer": text}], "retained": [...]}'
    return read_model(path, Probes, remedy=remedy)


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
    """Read `{"dynamics": [prompt], "completions": [prompt]}`; None gives none.

    Raises:
      UserError: the file is missing or malformed.
    """
    if path is None:
        return Prompts()
    return read_model(path, Prompts, remedy='give a file of {"dynamics": [text], "completions": [text]}')
