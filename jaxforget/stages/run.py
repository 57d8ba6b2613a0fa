"""A run: its configuration, its folder, and the paths of everything in it."""

import dataclasses
import functools
import sys
from pathlib import Path

import jax
from jax.sharding import Mesh

from jaxforget.config import Config
from jaxforget.corpus.text import Source, source_of
from jaxforget.errors import UserError, printable
from jaxforget.manifest import Manifest
from jaxforget.models.folders import resolve_folder
from jaxforget.sharding import make_mesh
from jaxforget.stages.build import make_objective
from jaxforget.train.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and the folder that a run fills."""

    config: Config

    @functools.cached_property
    def folder(self) -> Path:
        """The run's folder: `out`, which must be set."""
        return Path(_set(self.config.out, "out", "the folder that the run fills, as out=runs/NAME"))

    @functools.cached_property
    def base(self) -> Path:
        """Local folder of the base model; a model of the hub is downloaded, or taken from the cache, on first use.

        Raises:
          UserError: model.folder is not set, or there is no such folder or model.
        """
        return resolve_folder(_set(self.config.model.folder, "model.folder", "a model's folder or hub id"))

    @functools.cached_property
    def control(self) -> Path | None:
        """Local folder of the control, or None; a model of the hub is downloaded on first use, as `base` is."""
        return None if self.config.model.control is None else resolve_folder(self.config.model.control)

    @functools.cached_property
    def reinforced(self) -> Path:
        """Local folder of the reinforced model: the one that this run trains, or the one given.

        A given model of the hub is downloaded on first use, as `base` is.
        """
        given = self.config.model.reinforced
        return self.folder / "reinforced" if given is None else resolve_folder(given)

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The mesh of all devices, shaped by the options mesh.*."""
        mesh = self.config.mesh
        return make_mesh(mesh.data, mesh.fsdp, mesh.tensor)

    @functools.cached_property
    def manifest(self) -> Manifest:
        """The record in manifest.json."""
        return Manifest(self.folder)

    @property
    def corpus(self) -> str:
        """corpus.path, which must be set."""
        return _set(self.config.corpus.path, "corpus.path", "the text to forget")

    @property
    def target(self) -> Source:
        """The text to forget: corpus.*, of which corpus.path must be set."""
        return Source(self.corpus, self.config.corpus.field, self.config.corpus.split)

    @property
    def retained(self) -> Source | None:
        """The text to keep (retain.*), or None."""
        return source_of(self.config.retain)

    @property
    def heldout(self) -> Source | None:
        """The general text on which perplexity is measured (evals.heldout, read with corpus.field), or None."""
        place = self.config.evals.heldout
        return None if place is None else Source(place, self.config.corpus.field)

    @functools.cached_property
    def objective(self) -> Objective:
        """The objective of the method, with its settings."""
        return make_objective(self.config)

    @property
    def translates(self) -> bool:
        """True if the method reads the text with its anchors replaced."""
        return self.objective.base_input == "translated"

    @property
    def dictionary(self) -> str:
        """anchors.path, which must be set."""
        return _set(self.config.anchors.path, "anchors.path", 'a JSON dictionary {"anchor": ["generic", ...]}')

    @property
    def extractor(self) -> str | None:
        """The extractor that finds the anchors; None if the user gives them, or if the method translates nothing."""
        options = self.config.anchors
        if options.path is not None or options.extractor == "none" or not self.translates:
            return None
        return options.extractor

    @property
    def anchored(self) -> bool:
        """True if the run has a dictionary, the user's or one that it finds."""
        return self.config.anchors.path is not None or self.extractor is not None

    @property
    def reinforces_first(self) -> bool:
        """True if the reinforced model helps to find the anchors, and so is trained before they are known."""
        return self.extractor == "models"

    @property
    def anchors(self) -> Path:
        """The dictionary: the user's after its filter, or the one that was found."""
        return self.folder / "anchors.json"

    @property
    def answers(self) -> Path:
        """Answers of a language model that was asked for anchors."""
        return self.folder / "anchors.answers.jsonl"

    @property
    def review(self) -> Path:
        """Decisions of a reviewer about single anchors; they are applied again to a new dictionary."""
        return self.folder / "anchors.review.json"

    @property
    def blocks(self) -> Path:
        """Blocks of the target."""
        return self.folder / "blocks" / "target"

    @property
    def reinforce_blocks(self) -> Path:
        """Blocks that the reinforced model is trained on; it reads their original text only."""
        return self.folder / "blocks" / "text" if self.reinforces_first else self.blocks

    @property
    def retain_blocks(self) -> Path | None:
        """Blocks of the text to keep, or None where no step reads them."""
        return self.folder / "blocks" / "retain" if self.config.retain.rows or self.undoes else None

    def training_blocks(self, stage: str) -> Path | None:
        """Return the blocks that a training stage trains on: "reinforce", "forget" or "undo"."""
        return {"reinforce": self.reinforce_blocks, "undo": self.retain_blocks}.get(stage, self.blocks)

    @property
    def unrelated(self) -> Source | None:
        """Text unrelated to the target (ilu.*), or None where no step reads it."""
        return source_of(self.config.ilu) if self.config.ilu.weight else None

    @property
    def unrelated_blocks(self) -> Path | None:
        """Blocks of the unrelated text, or None."""
        return self.folder / "blocks" / "unrelated" if self.config.ilu.weight else None

    @property
    def undoes(self) -> bool:
        """True if the stage undo follows the stage forget (undo.alpha)."""
        return self.config.undo.alpha > 0

    @property
    def unlearning(self) -> tuple[str, ...]:
        """The stages that make the unlearned model, in their order."""
        return ("forget", "undo") if self.undoes else ("forget",)

    @property
    def forgotten(self) -> Path:
        """The model that the stage forget wrote, in the dtype that trained."""
        return self.folder / "unlearned"

    @property
    def unlearned(self) -> Path:
        """The unlearned model of the run, in the dtype that trained: that of its last unlearning stage."""
        return self.folder / "undone" if self.undoes else self.forgotten

    @property
    def export(self) -> Path:
        """The exported model."""
        return self.folder / "export"

    @property
    def evals(self) -> Path:
        """The results of evaluations."""
        return self.folder / "evals"

    def checkpoints(self, stage: str) -> Path:
        """Checkpoints of a training stage: "reinforce", "forget" or "undo"."""
        return self.folder / "checkpoints" / stage

    def say(self, text: str, *, coloured: bool = False) -> None:
        """Print a line on standard error, on the first process only; control characters stay only if `coloured`."""
        if jax.process_index() == 0:
            print(text if coloured else printable(text), file=sys.stderr, flush=True)


def _set(value: str | None, name: str, what: str) -> str:
    if value is None:
        raise UserError(f"{name} is not set; it names {what}")
    return value
