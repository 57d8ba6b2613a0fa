"""`jaxforget plan`: compiles a run's steps for TPU slices and reports memory, cost and options that save memory."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from jaxforget.config import TRAINING, Config
from jaxforget.errors import UserError
from jaxforget.models.config import ModelConfig
from jaxforget.models.layout import parameter_count
from jaxforget.models.published import read_shape
from jaxforget.models.transformer import REMATS
from jaxforget.sharding import make_mesh, row_shards
from jaxforget.stages.build import make_objective, passes
from jaxforget.stages.card import what_trains
from jaxforget.stages.estimate import model_flops_per_token, parameters_run
from jaxforget.tpu.advice import Option, candidates, replaced
from jaxforget.tpu.compiler import Compiled, compile_step, memory_limit, no_cache
from jaxforget.tpu.presets import preset_for
from jaxforget.tpu.programs import STEPS, Widths, batch_widths, check_plan, make_step
from jaxforget.tpu.topology import Slice, find_slice, slice_devices

MOST_BLOCKS = 1 << 16
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Site:
    """A slice to plan for.

    Attributes:
      place: the slice.
      mesh: mesh of its devices, by the options mesh.*.
      limit: usable memory of a device, in bytes.
    """

    place: Slice
    mesh: Mesh
    limit: int


@dataclasses.dataclass(frozen=True)
class Beside:
    """Further compilations of a training step; see the arguments of `plan_rows`."""

    max_batch: bool
    remats: bool
    advise: bool


def plan_rows(
    config: Config,
    slices: Sequence[str],
    *,
    steps: Sequence[str] = STEPS,
    max_batch: bool = False,
    remats: bool = False,
    advise: bool = True,
    say: Callable[[str], None] = lambda text: None,
) -> Iterator[dict[str, Any]]:
    """Compile the steps for every slice; yield a row for each step as soon as it is known, as `--json` prints it.

    A row's sizes are bytes on one device (a chip, or a core of a v2, v3 or tpu7x chip), null where the compiler did not
    say: slice, devices, chips, mesh; step, blocks, block_length, translated_length, widths (where those come from),
    tokens; attention ("splash", "plain"); fits, out_of_memory, refusal, note; peak_hbm_bytes, limit_hbm_bytes,
    argument_bytes, temporary_bytes, largest_buffers; trainable, weights, parameters; flops_per_token,
    hardware_flops_per_token (`flops.CONVENTION`); collective_bytes sent a step, by kind; data_dependent_loops, counted
    at their longest; compile_seconds; projection; and, if asked for, max_blocks; remats: {"remat", "fits",
    "out_of_memory", "peak_hbm_bytes", "hardware_flops_per_token"} of each; options: what each would save, and do to the
    result; preset: the one of configs/slices, if any, laid out for the slice.

    Args:
      slices: names ("v5e-8"), see `topology.GENERATIONS`.
      steps: of `STEPS`; those that the run does not have (`steps_of`) are left out.
      max_batch: also find the largest number of blocks that fits a training step.
      remats: also compile a training step with every model.remat; less recomputation usually takes more memory.
      advise: compile a training step that does not fit with options that save memory.
      say: receives a line about each compilation.

    Raises:
      UserError: an unknown slice, a model without a shape, rows that the devices cannot share, no TPU compiler, steps
        of which the run has none.
    """
    beside = Beside(max_batch, remats, advise)
    places = [find_slice(name) for name in slices]
    wanted = tuple(step for step in steps_of(config) if step in steps)
    if not wanted:
        why = "; ".join(f"no step {step}: {reason}" for step, reason in missing_steps(config).items() if step in steps)
        raise UserError(f"{why}; leave --step out, or change that")
    if (max_batch or remats) and not set(TRAINING) & set(wanted):
        flags = " and ".join(name for name, given in (("--max-batch", max_batch), ("--remat", remats)) if given)
        raise UserError(f"{flags}: of training steps alone, which {', '.join(wanted)} is not; add --step forget")
    if config.model.folder is None:
        raise UserError("model.folder is not set; it names a model's folder or hub id, of which config.json is enough")
    model_config, source = read_shape(config.model.folder)
    widths = batch_widths(config)
    say(f"shape: {source}; {widths.translated} translated tokens a block of {widths.length} ({widths.source})")
    meshes = [make_mesh(*_sizes(config), devices=slice_devices(place)) for place in places]
    for place, mesh in zip(places, meshes, strict=True):
        # All slices are checked before the first compilation, so that a fault of the last one appears at once.
        try:
            check_plan(config, model_config, mesh, wanted)
        except UserError as error:
            raise UserError(f"{place.name}: {error}") from None
    for place, mesh in zip(places, meshes, strict=True):
        site = Site(place, mesh, memory_limit(mesh.devices.flat[0]))
        for name in wanted:
            row = _row(config, model_config, site, widths, name, beside, say)
            peak = "?" if row["peak_hbm_bytes"] is None else f"{row['peak_hbm_bytes'] / GIB:.2f}"
            told = "fits" if row["fits"] else "does not fit" if row["out_of_memory"] else "failed"
            say(f"{place.name}: {name} {told}, {peak} of {site.limit / GIB:.2f} GiB")
            yield row


def plan(config: Config, slices: Sequence[str], **how: Any) -> list[dict[str, Any]]:
    """Return the list of all rows of `plan_rows`, which has the same arguments."""
    return list(plan_rows(config, slices, **how))


def missing_steps(config: Config) -> dict[str, str]:
    """Return the steps that a run does not have, as name -> reason."""
    objective = make_objective(config)
    missing = {}
    if config.model.reinforced is not None:
        missing["reinforce"] = "model.reinforced is set"
    elif not objective.needs_reinforced:
        missing["reinforce"] = f"method={objective.name} needs no reinforced model"
    if not config.targets.cache:
        missing["label"] = "targets.cache is false"
    if not objective.trains:
        missing["forget"] = f"method={objective.name} trains nothing"
    if not config.undo.alpha:
        missing["undo"] = "undo.alpha is 0"
    return missing


def steps_of(config: Config) -> tuple[str, ...]:
    """Return the steps that a run has, of `STEPS`."""
    missing = missing_steps(config)
    return tuple(step for step in STEPS if step not in missing)


def _sizes(config: Config) -> tuple[int, int, int]:
    return config.mesh.data, config.mesh.fsdp, config.mesh.tensor


def _compile(
    config: Config, model_config: ModelConfig, site: Site, widths: Widths, name: str, *, read: bool = True
) -> Compiled:
    step = make_step(config, model_config, site.mesh, widths, name)
    # The compile time is reported, so a cached program is not used.
    with no_cache():
        return compile_step(step.trace(), site.mesh.size, step.trips, read=read)


def _row(
    config: Config,
    model_config: ModelConfig,
    site: Site,
    widths: Widths,
    name: str,
    beside: Beside,
    say: Callable[[str], None],
) -> dict[str, Any]:
    step = make_step(config, model_config, site.mesh, widths, name)
    say(f"{site.place.name}: compiling {name}, {step.blocks} blocks a step")
    found = _compile(config, model_config, site, widths, name)
    parameters = parameter_count(model_config)
    model_flops = model_flops_per_token(config, name, parameters_run(config, name, model_config))
    row = {
        "slice": site.place.name,
        "step": name,
        "fits": found.fits,
        "blocks": step.blocks,
        "block_length": widths.length,
        "translated_length": widths.translated,
        "widths": widths.source,
        "devices": site.mesh.size,
        "chips": site.place.chips,
        "mesh": dict(site.mesh.shape),
        "peak_hbm_bytes": found.peak,
        "limit_hbm_bytes": site.limit,
        "argument_bytes": found.arguments,
        "temporary_bytes": found.temporaries,
        "parameters": parameters,
        "trainable": what_trains(config, name) if name in TRAINING else "none",
        "weights": _weights(config, name),
        "flops_per_token": model_flops,
        "hardware_flops_per_token": found.hardware_flops / step.tokens,
        "tokens": step.tokens,
        "attention": "splash" if found.kernels else "plain",
        "collective_bytes": found.collectives,
        "data_dependent_loops": found.data_loops,
        "largest_buffers": [dataclasses.asdict(buffer) for buffer in found.buffers],
        "compile_seconds": round(found.seconds, 1),
        "projection": _projection(site, found, step.tokens, model_flops, step.trips if name == "decode" else 1),
        "out_of_memory": found.out_of_memory,
        "refusal": found.refusal,
        "note": found.note,
    }
    if name not in TRAINING or not (found.fits or found.out_of_memory):
        return row

    def compile_with(changes: dict[str, Any]) -> Compiled:
        say(f"{site.place.name}: {name} with {' '.join(Option(changes).arguments)}")
        return _compile(replaced(config, changes), model_config, site, widths, name, read=False)

    if beside.max_batch:
        row |= _most_blocks(config, site, name, found, compile_with)
    if beside.remats:
        row["remats"] = _remats(config.model.remat, step.tokens, found, compile_with)
    if beside.advise and found.out_of_memory:
        tried = [{"model.remat": entry["remat"]} for entry in row.get("remats", ())]
        options = [option for option in candidates(config, site.mesh, name) if option.changes not in tried]
        row["options"] = _advice(options, found, compile_with)
        row["preset"] = preset_for(site.place, model_config)
    return row


def _weights(config: Config, name: str) -> str:
    """Return the forms in which a step stores the models, in words."""
    model = config.model
    stage = "forget" if name == "score" else name
    forms = {"full": model.dtype, "lora": f"LoRA over base, {model.dtype}", "int8-delta": "int8 over base"}
    if name == "decode":
        return f"one model {_held(model.base, model.dtype)}"
    if name == "label":
        return f"base {_held(model.base, model.dtype)}, reinforced {forms[config.reinforce.weights]}"
    adapter = getattr(config, stage).weights == "lora"
    student = "student " + ("LoRA over base, float32" if adapter else "float32")
    if model.dtype != "float32":
        student += f" (its {model.dtype} half computes)"
    parts = [student] + ([f"moments {getattr(config, stage).moment_dtype}"] if name in TRAINING else [])
    needed = passes(config, stage)
    if stage == "undo":
        parts.append(f"unlearned model {model.dtype}")
    elif needed.base:
        parts.append(f"base {_held(model.base, model.dtype)}")
    if needed.reinforced:
        parts.append(f"reinforced {forms[config.reinforce.weights]}")
    return ", ".join(parts)


def _held(form: str, dtype: str) -> str:
    return f"int8 (else {dtype})" if form == "int8" else dtype


def _projection(site: Site, found: Compiled, tokens: int, model_flops: int, passes: int) -> dict[str, Any] | None:
    """Return the least time of a step by published peaks, as if compute, memory and interconnect overlapped entirely.

    Args:
      site: the slice.
      found: the compiled step.
      tokens: tokens of a step.
      model_flops: model FLOP a token.
      passes: least number of times that a step reads its arguments: 1, or the number of new tokens.
    """
    if not found.fits:
        return None
    place, devices = site.place, site.mesh.size
    sent = found.collectives
    seconds = {
        "compute": found.hardware_flops / devices / place.peak_flops,
        "memory": found.arguments * passes / place.hbm_bandwidth,
        "interconnect": None if sent is None else sum(sent.values()) / place.ici_bandwidth,
    }
    bound = max(seconds, key=lambda part: seconds[part] or 0.0)
    least = seconds[bound]
    return {
        "what": "a projection from published peaks, not a measurement: no step is faster than this",
        "step_seconds": least,
        "bound_by": bound,
        "seconds": seconds,
        "tokens_per_second_per_chip": tokens / least / place.chips,
        "mfu_bound": model_flops * tokens / devices / place.peak_flops / least,
    }


def _advice(
    options: Sequence[Option], before: Compiled, compile_with: Callable[[dict[str, Any]], Compiled]
) -> list[dict[str, Any]]:
    """Return the memory that each option saves, by compiling the step with it."""
    found = []
    for option in options:
        after = compile_with(option.changes)
        saved = None if before.peak is None or after.peak is None else before.peak - after.peak
        sizes = {"peak_hbm_bytes": after.peak, "saved_bytes": saved}
        found.append({"options": option.arguments, "fits": after.fits, **sizes, "effect": option.effect})
    return found


def _remats(
    configured: str, tokens: int, first: Compiled, compile_with: Callable[[dict[str, Any]], Compiled]
) -> list[dict[str, Any]]:
    """Return memory and FLOP of the step with every model.remat, the one that recomputes most first.

    `first` is the result with the configured one.
    """
    rows = []
    for remat in REMATS:
        found = first if remat == configured else compile_with({"model.remat": remat})
        rows.append({"remat": remat, "fits": found.fits, "out_of_memory": found.out_of_memory})
        rows[-1] |= {"peak_hbm_bytes": found.peak, "hardware_flops_per_token": found.hardware_flops / tokens}
    return rows


def _most_blocks(
    config: Config, site: Site, name: str, first: Compiled, compile_with: Callable[[dict[str, Any]], Compiled]
) -> dict[str, Any]:
    """Find the largest number of blocks that fits a training step by compiling it, with all other options unchanged."""
    options = getattr(config, name)
    unit = row_shards(site.mesh) * options.accumulate
    retain = config.retain.rows if name == "forget" else 0
    seen = {(options.batch + retain) // unit: (first.fits, first.peak)}

    def measure(units: int) -> tuple[bool, int | None]:
        if units not in seen:
            found = compile_with({f"{name}.batch": units * unit - retain})
            seen[units] = (found.fits, found.peak)
        return seen[units]

    least = retain // unit + 1
    best = most_units(measure, (options.batch + retain) // unit, least, MOST_BLOCKS // unit, site.limit)
    return {"max_blocks": best * unit, "max_blocks_unit": unit, "max_blocks_compilations": len(seen)}


def most_units(measure: Callable[[int], tuple[bool, int | None]], start: int, least: int, most: int, limit: int) -> int:
    """Return the largest n from `least` to `most` that fits; 0 if none does.

    Memory grows almost linearly with n, so the next n is interpolated between the peaks on both sides of the limit. It
    is at least a quarter of the interval away from either end, so the search also ends quickly if memory is not linear.

    Args:
      measure: n -> (fits, peak in bytes or None).
      start: the first n to measure.
      least: smallest n.
      most: largest n.
      limit: usable memory in bytes.
    """
    fits, misses = least - 1, most + 1
    at = min(max(start, least), most)
    while True:
        if measure(at)[0]:
            fits = at
        else:
            misses = at
        if misses - fits <= 1:
            return fits if fits >= least else 0
        if misses > most:
            at = min(2 * fits, most)
        elif fits < least:
            at = max(least, misses // 2)
        else:
            at = _between(measure, fits, misses, limit)


def _between(measure: Callable[[int], tuple[bool, int | None]], fits: int, misses: int, limit: int) -> int:
    low, high = measure(fits)[1], measure(misses)[1]
    guess = (fits + misses) // 2
    if low is not None and high is not None and high > max(low, limit):
        guess = fits + int((misses - fits) * (limit - low) / (high - low))
    quarter = (misses - fits) // 4
    return min(max(guess, fits + max(1, quarter)), misses - max(1, quarter))
