"""A run before it works: which stages will run, and their blocks, steps and seconds as far as these can be known."""

import dataclasses
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jaxforget.config import TRAINING, Config, load_config
from jaxforget.corpus.batches import read_summary
from jaxforget.corpus.text import Document, Source
from jaxforget.corpus.tokens import cut_blocks, tokenize
from jaxforget.manifest import current_devices, fingerprint
from jaxforget.models.config import ModelConfig
from jaxforget.models.layout import leaves, parameter_count
from jaxforget.stages.build import make_objective, make_retain, passes
from jaxforget.stages.fit import count_steps
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Stage
from jaxforget.train.checkpoint import saved_step
from jaxforget.train.metrics import read_records, step_seconds

# A multiplication and an addition for every weight and token of a forward pass. Backward does as much for the inputs,
# and as much again for the weights where they train.
FORWARD, BACKWARD = 2, 4
COUNTED = 1_000_000  # characters of a text that is cut to count its blocks; a longer one is estimated from a sample
SAMPLE = 200_000  # characters that are tokenised of a longer text
CHARACTERS = 4.0  # characters of a token where there is no tokenizer on this machine


@dataclasses.dataclass(frozen=True)
class Blocks:
    """Number of blocks of a text.

    Attributes:
      train: blocks that train.
      held: blocks held out for validation.
      tokens: mean number of tokens in a block.
      source: "prepared", "counted" (the text was cut) or "estimated" (from its size).
    """

    train: int
    held: int
    tokens: float
    source: str


@dataclasses.dataclass(frozen=True)
class Planned:
    """A stage of a chain before the chain runs.

    Attributes:
      name: the stage.
      runs: False if it is up to date.
      why: what changed since it last ran; empty if it has not finished before.
      refused: True if running it needs `again`, because it would replace a finished result.
      resumes: the step of the checkpoint from which it resumes; 0 without one.
      discards: the refusal to run it without `again`, because that would discard its checkpoint; empty without one.
    """

    name: str
    runs: bool
    why: str = ""
    refused: bool = False
    resumes: int = 0
    discards: str = ""


def prepared_blocks(folder: Path) -> Blocks:
    """Return the numbers of blocks that are prepared in `folder`."""
    summary = read_summary(folder)
    train, held = summary["splits"]["train"], summary["splits"].get("validation", 0)
    return Blocks(train, held, summary["tokens"] / (train + held), "prepared")


def estimate_blocks(source: Source, tokenizer: Any, config: Config, *, holdout: float) -> Blocks:
    """Return the numbers of blocks into which a text will be cut.

    Args:
      source: the text.
      tokenizer: base's; None where base is not on this machine, which makes a token `CHARACTERS` characters.
      holdout: fraction of blocks that is held out.
    """
    length, mode = config.blocks.length, config.blocks.mode
    documents = list(source.documents())
    characters = [len(document.text) for document in documents]
    if tokenizer is not None and sum(characters) <= COUNTED:
        blocks, _ = cut_blocks(documents, tokenizer, length=length, mode=mode)
        count, tokens, how = len(blocks), sum(map(len, blocks)), "counted"
    else:
        each = CHARACTERS if tokenizer is None else _characters_per_token(documents, tokenizer)
        sizes = [size / each + 1 for size in characters]  # a document begins with one BOS token
        tokens, how = sum(sizes), "estimated"
        count = math.ceil(tokens / length) if mode == "paper" else sum(math.ceil(size / length) for size in sizes)
    held = min(round(holdout * count), count - 1)
    return Blocks(count - held, held, tokens / count, how)


def _characters_per_token(documents: Iterable[Document], tokenizer: Any) -> float:
    """Return the mean number of characters of a token in the first `SAMPLE` characters."""
    left, characters, tokens = SAMPLE, 0, 0
    for document in documents:
        text = document.text[:left]
        characters, tokens, left = characters + len(text), tokens + len(tokenize(tokenizer, text)), left - len(text)
        if left <= 0:
            break
    return characters / max(tokens, 1)


def training_steps(run: Run, stage: str, blocks: Blocks) -> int:
    """Return the number of steps of a training stage over its blocks; a method that computes weights takes one."""
    if stage == "forget" and not run.objective.trains:
        return 1
    return count_steps(blocks.train, getattr(run.config, stage))


def parameters_run(config: Config, step: str, shape: ModelConfig) -> int:
    """Return N of `jaxforget.tpu.flops.CONVENTION`: a loss on hidden states runs the layers before them only.

    Args:
      config: the run's configuration.
      step: name of the step.
      shape: shape of the model.
    """
    if step == "forget":
        objective, retain = make_objective(config), make_retain(config)
        if objective.on_states and (retain is None or retain.kind == "states"):
            layers = sum(math.prod(leaf.shape) for leaf in leaves(shape) if leaf.stacked)
            return layers * objective.layer // shape.num_hidden_layers
    return parameter_count(shape)


def model_flops_per_token(config: Config, step: str, parameters: int) -> int:
    """Return the model FLOP of a step for each token of the block, by `jaxforget.tpu.flops.CONVENTION`.

    Args:
      config: the run's configuration.
      step: name of the step.
      parameters: the number that the step runs, as `parameters_run` returns it.
    """
    if step not in TRAINING:
        return FORWARD * parameters * (2 if step == "label" else 1)
    trained = FORWARD + (BACKWARD // 2 if getattr(config, step).weights == "lora" else BACKWARD)
    run = passes(config, step)
    flops = (FORWARD * run.frozen + trained * run.trained) * parameters
    if step == "forget" and config.ilu.weight:
        # A gradient of unrelated rows and its derivative, spread over the tokens of the other rows.
        flops += 2 * trained * parameters * config.ilu.rows // (config.forget.batch + config.retain.rows)
    return flops


def step_flops(config: Config, stage: str, parameters: int) -> float:
    """Return the model FLOP of a whole step of a training stage, over all devices."""
    rows = getattr(config, stage).batch + (config.retain.rows if stage == "forget" else 0)
    return float(model_flops_per_token(config, stage, parameters)) * rows * config.blocks.length


def measured_step_seconds(run: Run, stage: str) -> float | None:
    """Return the seconds of a step that metrics.jsonl of the run tells; None if it tells none for these devices.

    A step of other rows, of another length or of another training stage counts in proportion to its model FLOP.

    Configuration and manifest in the folder tell what computed the steps, so call this before they are replaced.
    """
    if not (run.folder / "config.yaml").is_file() or run.manifest.devices() != current_devices():
        return None
    then, records = load_config(run.folder), read_records(run.folder / "metrics.jsonl")
    for measured in (stage, *(name for name in TRAINING if name != stage)):
        if seconds := step_seconds(records, measured):
            return statistics.median(seconds) * step_flops(run.config, stage, 1) / step_flops(then, measured, 1)
    return None


def plan_chain(run: Run, chain: Iterable[Stage]) -> tuple[Planned, ...]:
    """Return for each stage of a chain if it would run and why; change nothing."""
    running: dict[str, Stage] = {}
    expected: dict[str, str] = {}  # fingerprints that the stages before will have
    uncertain: set[str] = set()  # stages whose fingerprint depends on a file that will be written anew
    found = []
    for stage in chain:
        needs, inputs = stage.needs(run), stage.inputs(run, expected)
        changes, finished = stage.changes(run, inputs), stage.finished(run)
        made = {path for earlier in running.values() for path in earlier.outputs(run)}
        rewritten = [name for name, path in needs.files.items() if path is not None and Path(path) in made]
        rewritten += [name for name in needs.stages if name in uncertain]
        why = ""
        if stage.always:
            why = "always"
        elif run.manifest.stage(stage.name) is not None:
            if changes:
                why = f"{', '.join(changes)} changed"
            elif not finished:
                why = "its output is gone or damaged"
            elif rewritten:
                why = f"if {' and '.join(rewritten)} changes"
        runs = bool(why) or not finished
        if runs and not stage.always:
            running[stage.name] = stage
            expected[stage.name] = fingerprint(inputs)
            uncertain |= {stage.name} if rewritten else set()
        resumes = 0
        if runs and stage.trains and not rewritten:
            resumes = saved_step(run.checkpoints(stage.name), fingerprint(inputs))
        refused = finished and stage.keeps and any(name not in uncertain for name in changes)
        lost, since = stage.discards(run, inputs) if not finished else ("", [])
        if all(name in uncertain for name in since):
            lost = ""
        found.append(Planned(stage.name, runs, why, refused, resumes, lost))
    return tuple(found)


def expected_seconds(run: Run, planned: Planned) -> float | None:
    """Return the seconds that a stage will take by what this run measured before; None if it measured nothing.

    A training stage counts its steps at the measured seconds of a step, another stage takes as long as last time.
    """
    blocks = run.training_blocks(planned.name)
    trains = planned.name in TRAINING and (planned.name != "reinforce" or run.config.model.reinforced is None)
    if trains and blocks is not None and (blocks / "blocks.json").is_file():
        seconds = measured_step_seconds(run, planned.name)
        if seconds is not None:
            return seconds * max(training_steps(run, planned.name, prepared_blocks(blocks)) - planned.resumes, 0)
    entry = run.manifest.stage(planned.name)
    return None if entry is None or entry["devices"] not in (None, current_devices()) else entry["seconds"]
