"""`jaxforget run --dry-run`: what a run will do and need, from its text, its shapes and earlier measurements."""

import dataclasses
import math
import shutil
import textwrap
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxforget.config import TRAINING, Config, naming_options, options, value_of
from jaxforget.errors import UserError
from jaxforget.models.config import ModelConfig
from jaxforget.models.layout import parameter_count
from jaxforget.models.published import read_shape
from jaxforget.models.tokenizer import load_tokenizer
from jaxforget.pipeline import needed_stages, order
from jaxforget.stages.build import trained_shapes
from jaxforget.stages.check import check
from jaxforget.stages.estimate import (
    Blocks,
    Planned,
    estimate_blocks,
    expected_seconds,
    measured_step_seconds,
    plan_chain,
    prepared_blocks,
    step_flops,
    training_steps,
)
from jaxforget.stages.folder import check_folder
from jaxforget.stages.run import Run
from jaxforget.tpu.programs import batch_widths, check_plan, training_program
from jaxforget.tpu.topology import peak_of
from jaxforget.train.metrics import duration

GIB = 2**30
WIDTH = 80  # columns
TRANSLATION_BYTES = 8  # of a token in each further translation: translated token and place
PLACE_BYTES = 16  # of a token in a prepared block: token, translated token, place and weight, 4 bytes each


@dataclasses.dataclass(frozen=True)
class StageEstimate:
    """A stage of a run before the run.

    Attributes:
      planned: whether it will run, and why.
      steps: training steps in all, of which `planned.resumes` are done; None for a stage that does not train.
      seconds: expected time; None where nothing tells it.
      bound: `seconds` are a lower bound, from the published peak of the devices.
      memory: bytes on one device by what holds them; empty for a stage that does not train.
      disk: bytes of its results.
      checkpoints: bytes of its checkpoints, which are removed when it is finished.
    """

    planned: Planned
    steps: int | None = None
    seconds: float | None = None
    bound: bool = False
    memory: dict[str, int] = dataclasses.field(default_factory=dict)
    disk: int = 0
    checkpoints: int = 0


@dataclasses.dataclass(frozen=True)
class RunEstimate:
    """A run before it starts: its stages, its blocks by name ("target", "retain"), and the machine.

    Attributes:
      stages: in the order in which they will run.
      blocks: name of the text -> its blocks.
      devices: number and kind of the devices.
      chips: number of their chips.
      memory_limit: bytes that a device has; None where it does not say.
      free_disk: free bytes where the run's folder is.
      remote: options that name a model that is not on this machine: stages are then not compared with their inputs.
    """

    stages: tuple[StageEstimate, ...]
    blocks: dict[str, Blocks]
    devices: str
    chips: float
    memory_limit: int | None
    free_disk: int
    remote: tuple[str, ...] = ()


def estimate_run(config: Config, *, again: bool = False, force: bool = False) -> RunEstimate:
    """Return what a run of the whole chain will do and need; write nothing, load no weights and train nothing.

    Args:
      config: the run's configuration.
      again: finished results may be replaced; without it the estimate marks stages that the run would refuse.
      force: accept an `out` that holds other files, as `run_chain` does.

    Raises:
      UserError: a mistake of the user that the run would refuse, too.
    """
    with naming_options(config):
        run = Run(config)
        check_folder(run, force=force)
        names = needed_stages(run)
        remote = _remote_models(config)
        model_config, _ = read_shape(_set_model(config))
        if remote:  # a dry run downloads no weights
            check_plan(config, model_config, run.mesh, TRAINING)
            planned = tuple(_uncompared(run, name) for name in names)
        else:
            check(run, names)
            planned = plan_chain(run, order(run, names))
        if again:
            planned = tuple(dataclasses.replace(one, refused=False, discards="") for one in planned)
        blocks = _blocks(run, planned, None if remote else load_tokenizer(run.base))
        above = next(path for path in (run.folder, *run.folder.absolute().parents) if path.is_dir())
        kind = jax.devices()[0].device_kind
        return RunEstimate(
            tuple(_stage(run, model_config, one, blocks) for one in planned),
            blocks,
            f"{run.mesh.size} x {kind}",
            run.mesh.size / peak_of(kind)[0],
            (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit"),
            shutil.disk_usage(above).free,
            remote,
        )


def _set_model(config: Config) -> str:
    if config.model.folder is None:
        raise UserError("model.folder is not set; it names the base model: a folder or a hub id")
    return config.model.folder


def _remote_models(config: Config) -> tuple[str, ...]:
    """Return the options that name a model that is no folder of this machine."""
    found = []
    for name, field in options():
        value = value_of(config, name)
        if field.metadata["path"] == "model" and value:
            places = value.values() if isinstance(value, dict) else (value,)
            found += [name for place in places if not Path(place).expanduser().exists()]
    return tuple(found)


def _uncompared(run: Run, name: str) -> Planned:
    """Return a stage that cannot be compared with its inputs, because a model is not on this machine."""
    if run.manifest.stage(name) is None:
        return Planned(name, runs=True)
    return Planned(name, runs=True, why="finished before; not compared")


def _blocks(run: Run, planned: tuple[Planned, ...], tokenizer: Any) -> dict[str, Blocks]:
    """Return the blocks of the target and of the text to keep: the prepared ones where these are up to date."""
    prepared = any(one.name == "prepare" and not one.runs for one in planned)
    texts = {"target": (run.target, run.blocks, run.config.blocks.holdout)}
    if run.retain_blocks is not None and run.retained is not None:
        texts["retain"] = (run.retained, run.retain_blocks, 0.0)
    return {
        name: prepared_blocks(folder) if prepared else estimate_blocks(source, tokenizer, run.config, holdout=holdout)
        for name, (source, folder, holdout) in texts.items()
    }


def _stage(run: Run, model_config: ModelConfig, planned: Planned, blocks: dict[str, Blocks]) -> StageEstimate:
    """Return the estimate of one stage; a stage that is up to date needs nothing."""
    config, name = run.config, planned.name
    given = name == "reinforce" and config.model.reinforced is not None
    if not planned.runs or given:
        return StageEstimate(planned, seconds=0.0)
    if name not in TRAINING:
        return StageEstimate(
            planned, seconds=expected_seconds(run, planned), disk=_result_bytes(run, model_config, name, blocks)
        )
    steps = training_steps(run, name, blocks["retain" if name == "undo" else "target"])
    left = max(steps - planned.resumes, 0)
    each, bound = measured_step_seconds(run, name), False
    per_chip, peak = peak_of(jax.devices()[0].device_kind)
    if each is None and peak is not None:
        each, bound = step_flops(config, name, parameter_count(model_config)) / (run.mesh.size / per_chip * peak), True
    seconds = None if each is None else each * left
    disk = _result_bytes(run, model_config, name, blocks)
    if name == "forget" and not run.objective.trains:
        return StageEstimate(planned, steps, seconds, bound, disk=disk)
    _, (state, frozen, batch) = training_program(config, model_config, run.mesh, batch_widths(config), name)
    training = getattr(config, name)
    # A checkpoint is written beside those that are kept.
    kept = config.checkpoints.keep + 1 + (name == "forget" and config.forget.select != "last")
    states = min(kept, math.ceil(left / config.checkpoints.every))
    params = _device_bytes(state.params)
    half = config.model.dtype == "bfloat16"  # gradients are those of the half that computes
    rows = batch["tokens"].sharding.shard_shape(batch["tokens"].shape)[0] // training.accumulate
    width = jnp.dtype(config.model.dtype).itemsize * model_config.hidden_size
    memory = {
        "weights": params,
        "moments": _device_bytes(state.opt_state),
        "frozen models": _device_bytes(frozen),
        "gradients": params // (2 if half else 1) + (params if training.accumulate > 1 else 0),
        # With model.remat=full: the input of every layer. Other values keep more.
        "activations at least": model_config.num_hidden_layers * rows * config.blocks.length * width,
    }
    if name == "forget" and (count := run.objective.translations):
        memory["states of translations"] = count * rows * config.blocks.length * width
    return StageEstimate(planned, steps, seconds, bound, memory, disk, states * _total_bytes(state))


def _device_bytes(tree: Any) -> int:
    """Return the bytes that abstract arrays take on one device."""
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)


def _total_bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _result_bytes(run: Run, model_config: ModelConfig, name: str, blocks: dict[str, Blocks]) -> int:
    """Return the bytes that the results of a stage take on disk; those of small files count as none."""
    config = run.config
    if name in TRAINING:
        weights = "lora" if getattr(config, name).weights == "lora" else "full"
        labels = blocks["target"].train * config.blocks.length * 4 if name == "forget" and config.targets.cache else 0
        return _total_bytes(trained_shapes(config, weights, model_config)) + labels
    if name == "export":
        return parameter_count(model_config) * jnp.dtype(config.export.dtype).itemsize
    if name in ("prepare", "text"):
        tokens = {place: (text.train + text.held) * text.tokens for place, text in blocks.items()}
        if name == "text":
            return int(tokens["target"] * PLACE_BYTES)
        further = tokens["target"] * run.objective.translations
        return int(sum(tokens.values()) * PLACE_BYTES + further * TRANSLATION_BYTES)
    return 0


def as_text(found: RunEstimate, config: Config, price: float | None = None) -> str:
    """Return the estimate as text of at most 80 columns.

    Args:
      found: what `estimate_run` returned.
      config: the run's configuration.
      price: US dollars of a chip-hour; None leaves the price out.
    """
    lines = [f"{'stage':10} {'steps':>9}  {'time':>16}  what happens"]
    for one in found.stages:
        steps = "" if one.steps is None else f"{one.steps - one.planned.resumes:,}"
        lines.append(f"{one.planned.name:10} {steps:>9}  {_time(one):>16}  {_action(one)}".rstrip())
    lines.append("")
    for name, text in found.blocks.items():
        held = f" and {text.held:,} held out" if text.held else ""
        lines.append(f"{name}: {text.train:,} blocks of at most {config.blocks.length} tokens{held} ({text.source})")
    limit = "" if found.memory_limit is None else f" of {_size(found.memory_limit)}"
    for one in found.stages:
        if one.memory:
            parts = ", ".join(f"{name} {_size(size)}" for name, size in one.memory.items() if size)
            total = _size(sum(one.memory.values()))
            lines.append(f"memory of {one.planned.name} on each of {found.devices}: {total}{limit} ({parts})")
    results, checkpoints = (sum(one.disk for one in found.stages), max(one.checkpoints for one in found.stages))
    short = "; not enough" if results + checkpoints > found.free_disk else ""
    lines.append(
        f"disk: {_size(results)} for results, at most {_size(checkpoints)} for checkpoints of a stage that trains; "
        f"{_size(found.free_disk)} free{short}"
    )
    lines.append(_total_time(found))
    if price is not None:
        lines.append(_price(found, price))
    if found.remote:
        lines.append(
            f"{', '.join(found.remote)}: not on this machine, so stages are not compared with their inputs, and a "
            "token is taken as 4 characters"
        )
    if refused := [one.planned.name for one in found.stages if one.planned.refused]:
        lines.append(f"the run needs --again, which replaces the results of {', '.join(refused)}")
    lines += [one.planned.discards for one in found.stages if one.planned.discards]
    lines.append("nothing was run or changed")
    return "\n".join(wrapped for line in lines for wrapped in _wrapped(line))


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent="  ", drop_whitespace=True, break_on_hyphens=False) or [""]


def _action(one: StageEstimate) -> str:
    planned = one.planned
    if not planned.runs:
        return "up to date"
    resumes = f"resumes at step {planned.resumes}" if planned.resumes else "runs"
    return f"{resumes}: {planned.why}" if planned.why else resumes


def _time(one: StageEstimate) -> str:
    if one.seconds is None:
        return "unknown"
    if not one.planned.runs:
        return ""
    return f"at least {duration(one.seconds)}" if one.bound else duration(one.seconds)


def _known_time(found: RunEstimate) -> tuple[float, bool, list[str]]:
    """Return the seconds of stages whose time is known, True if they are a lower bound, and the other stages."""
    unknown = [one.planned.name for one in found.stages if one.seconds is None and one.planned.why != "always"]
    return sum(one.seconds or 0.0 for one in found.stages), any(one.bound for one in found.stages), unknown


def _total_time(found: RunEstimate) -> str:
    seconds, bound, unknown = _known_time(found)
    beside = f", without {', '.join(unknown)}" if unknown else ""
    if any(one.steps and one.seconds is None for one in found.stages):
        return "time: unknown until a step is measured on this machine: jaxforget profile CONFIG, or start the run"
    how = "by the devices' published peak" if bound else "by what this run measured"
    return f"time: {'at least ' * bound}{duration(seconds)} {how}{beside}"


def _price(found: RunEstimate, price: float) -> str:
    seconds, bound, unknown = _known_time(found)
    if any(one.steps and one.seconds is None for one in found.stages):
        return "price: unknown, as the time is"
    dollars = seconds / 3600 * found.chips * price
    least = "at least " if bound or unknown else ""
    return f"price: {least}${dollars:,.2f} ({found.chips:g} chips at ${price:g} an hour)"


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"
