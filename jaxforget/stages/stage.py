"""A stage of the chain: what it needs, what it writes, and the fingerprint that follows from its needs."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jaxforget.config import result_options, told_options
from jaxforget.corpus.text import Source
from jaxforget.manifest import changed, fingerprint
from jaxforget.stages.hashes import hash_data, hash_model, hash_source, hash_tokenizer_files
from jaxforget.stages.run import Run
from jaxforget.train.checkpoint import saved_step


@dataclasses.dataclass(frozen=True)
class Needs:
    """Inputs of a stage under one configuration.

    Every mapping goes from the name that messages use, an option where there is one, to the input, which counts by
    content. Options of the configuration need no entry here: the schema says which ones matter to which stage.

    Attributes:
      stages: earlier stages that must be finished, and that this stage depends on as a whole.
      after: earlier stages that must be finished; the other fields name what this stage reads of their output.
      brings: earlier stages that also run when this stage is asked for alone.
      texts: sources of text.
      models: folders of models, of which shape and weights are read.
      tokenizers: folders of models, of which the tokenizer is read.
      extra_files: folders, with the patterns of the small files that are read.
      files: files or folders that are read whole.
      values: further values.
      unused: options, or whole sections, that change nothing under this configuration. The field and split of a text
        are always among them, because the text's own hash covers them.
    """

    stages: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    brings: tuple[str, ...] = ()
    texts: Mapping[str, Source | None] = dataclasses.field(default_factory=dict)
    models: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    tokenizers: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    extra_files: Mapping[str, tuple[Path, Sequence[str]]] = dataclasses.field(default_factory=dict)
    files: Mapping[str, str | Path | None] = dataclasses.field(default_factory=dict)
    values: Mapping[str, str] = dataclasses.field(default_factory=dict)
    unused: Collection[str] = ()


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of the chain.

    Attributes:
      name: the subcommand.
      needs: returns the inputs under a run's configuration.
      work: writes the outputs; receives the run and the fingerprint of the stage's inputs.
      outputs: files that exist when the stage is finished.
      options: the stage whose options matter to this one; empty for its own.
      together: True if all processes of a run work on it at once, because it computes on their devices.
      trains: True if it writes checkpoints, which are removed once the stage is recorded.
      keeps: True if a finished result is replaced only on request (`--again`).
      editable: True if a user may change the outputs, which are then not verified.
      refresh: rewrites what shows the state of the run beside a result that is up to date; None if nothing does.
      always: True if it runs every time, because it is cheap and shows the current state.
    """

    name: str
    needs: Callable[[Run], Needs]
    work: Callable[[Run, str], None]
    outputs: Callable[[Run], list[Path]]
    options: str = ""
    together: bool = True
    trains: bool = False
    keeps: bool = False
    always: bool = False
    editable: bool = False
    refresh: Callable[[Run], None] | None = None

    def finished(self, run: Run) -> bool:
        """Return True if the stage is recorded as finished and all that it wrote is there.

        A trained model is never made again only because a file of it is damaged: the stages that read it say so.
        """
        if run.manifest.stage(self.name) is None or not all(path.exists() for path in self.outputs(run)):
            return False
        return self.trains or self.editable or not run.manifest.damaged(self.products(run))

    def products(self, run: Run) -> tuple[str, ...]:
        """Return the names in the run's folder of what the stage writes there: models, blocks and evals/ as folders."""
        names = {
            str((path if path.parent == run.folder else path.parent).relative_to(run.folder))
            for path in self.outputs(run)
            if path.is_relative_to(run.folder)
        }
        return tuple(sorted(names))

    def inputs(self, run: Run, expected: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
        """Return all that the outputs depend on, as name -> hash or value.

        Args:
          run: the run.
          expected: fingerprints that earlier stages will have, by name, instead of the recorded ones.
        """
        needs = self.needs(run)
        done = {name: run.manifest.stage(name) or {} for name in needs.stages}
        values = result_options(run.config, self.options or self.name, needs.unused)
        hashed = {
            **{name: hash_source(run, source) for name, source in needs.texts.items() if source is not None},
            **{name: hash_model(run, folder) for name, folder in needs.models.items()},
            **{name: hash_tokenizer_files(run, folder) for name, folder in needs.tokenizers.items()},
            **{name: hash_tokenizer_files(run, *given) for name, given in needs.extra_files.items()},
            **{name: hash_data(run, str(path)) for name, path in needs.files.items() if path is not None},
        }
        stages = {name: expected.get(name, entry.get("fingerprint", "")) for name, entry in done.items()}
        return {**stages, **values, **hashed, **needs.values}

    def changes(self, run: Run, inputs: Mapping[str, str], since: Mapping[str, Any] | None = None) -> list[str]:
        """Return what changed since the stage was recorded: options by their value, other inputs by content.

        An input that is new or gone only because another option changed is not named: that option is.

        Args:
          run: the run.
          inputs: the present inputs.
          since: the inputs and options to compare with, in place of those of the stage's record.
        """
        entry: Mapping[str, Any] = since or run.manifest.stage(self.name) or {"inputs": {}}
        names, now = changed(entry["inputs"], inputs), told_options(run.config)
        set_anew = set(changed(entry.get("options", now), now))
        found: set[str] = set()
        for name in names:
            section = name.removesuffix("path")
            related = {name, f"{section}field", f"{section}split"} if name.endswith(".path") else {name}
            if related & set_anew:
                found |= related & set_anew
            elif name in entry["inputs"] and name in inputs:
                found.add(name)
        return sorted(found or (set_anew if names else ())) or names

    def discards(self, run: Run, inputs: Mapping[str, str]) -> tuple[str, list[str]]:
        """Return a refusal to discard the checkpoint of an unfinished stage, because its inputs have changed.

        Returns:
          The message, which names the step and the changes with earlier and present values, and the names of the
          changes; both are empty if a start with these inputs discards no checkpoint.
        """
        begun = run.manifest.begun(self.name)
        if begun is None or begun["inputs"] == inputs:
            return "", []
        step = saved_step(run.checkpoints(self.name), fingerprint(begun["inputs"]))
        if not step:
            return "", []
        names, before, now = self.changes(run, inputs, begun), begun["options"], told_options(run.config)
        # An earlier stage changed by its own options, if any of them differ.
        anew = set(changed(before, now))
        options = {name: [one for one in result_options(run.config, name) if one in anew] for name in names}
        told = [
            f"{name} changed from {before[name]} to {now[name]}"
            if name in anew & before.keys() & now.keys()
            else f"{name} changed"
            for name in dict.fromkeys(one for name in names for one in options[name] or [name])
        ]
        message = (
            f"{run.folder}: stage {self.name} is unfinished, and {', '.join(told)} since its checkpoint of step "
            f"{step}; change that back to continue, or add --again (in Python again=True) to discard the checkpoint"
        )
        return message, names
