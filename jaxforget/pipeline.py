"""The chain, read top to bottom: which stages there are, what each depends on, and when one need not run again."""

import contextlib
import dataclasses
import shlex
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxforget.config import Config, naming_options, to_yaml
from jaxforget.corpus.text import source_of
from jaxforget.errors import UserError
from jaxforget.evals.outcomes import brought_back, leak_table
from jaxforget.files import write_text
from jaxforget.manifest import changed, fingerprint
from jaxforget.models.export import LICENCE_FILES, TOKENIZER_FILES
from jaxforget.report.artefacts import read_attack_metrics
from jaxforget.report.page import write_report
from jaxforget.report.verdict import judge_run
from jaxforget.stages import anchors, eval, export, forget, prepare, reinforce
from jaxforget.stages.check import check
from jaxforget.stages.hashes import hash_model, hash_questions, hash_source, hash_tokenizer_files
from jaxforget.stages.run import Run, wait_for_all
from jaxforget.stages.suites.catalogue import SUITES
from jaxforget.stages.suites.suite import chosen, compared, measure, preview
from jaxforget.train.checkpoint import discard
from jaxforget.train.loop import Preempted, hosts_preempted


@dataclasses.dataclass(frozen=True)
class Stage:
    """One link.

    name: the subcommand. inputs: what its output depends on, as name -> hash or value. work: makes the output.
    outputs: files that stand when it is done. together: whether all processes of a run must work on it at once,
    because it computes on their devices. trains: whether it leaves checkpoints, of no use once its output is
    recorded: with other inputs, more steps among them, it starts anew. always: whether it is made again every time:
    it is cheap and shows whatever is there.
    """

    name: str
    inputs: Callable[[Run], Mapping[str, str]]
    work: Callable[[Run, str], None]
    outputs: Callable[[Run], list[Path]]
    together: bool = True
    trains: bool = False
    always: bool = False


def _values(config: Config, section: str, leave: tuple[str, ...] = ()) -> dict[str, str]:
    """A section's options as strings, but for those that change how it is computed and not what."""
    values = dataclasses.asdict(getattr(config, section))
    return {f"{section}.{key}": repr(value) for key, value in values.items() if key not in leave}


# How the work is laid out on devices, and where inputs are found, changes no result; contents are hashed instead.
_LAYOUT = ("accumulate", "remat", "attention")
_PLACES = ("path", "folder", "control", "reinforced")
_FORMS = ("weights", "base")  # how weights are held: told by `_forms`, where it matters
_DRAWING = ("match", "draw")  # matter when text is translated, not to the dictionary itself
# What each finder of a dictionary is told.
_COUNTING = ("language", "min_count", "most", "counterparts")
_FINDING = {
    "models": (*_COUNTING, "sample"),
    "statistics": _COUNTING,
    "endpoint": ("calls",),
    "local": ("calls", "model", "answer_tokens"),
}
_FOUND = ("path", "extractor", *_COUNTING, "sample", "calls", "model", "answer_tokens")


def _text(run: Run, section: str) -> dict[str, str]:
    source = source_of(getattr(run.config, section))
    return {} if source is None else {f"{section}.path": hash_source(run, source)}


def _finished(run: Run, name: str) -> dict[str, str]:
    """The fingerprint of an earlier stage, which must have finished with the inputs of today."""
    done = run.manifest.stage(name)
    mend = f"run jaxforget {name} (or jaxforget run) with the same configuration"
    if done is None:
        raise UserError(f"{run.folder}: stage {name} has not finished; {mend}")
    stage = next(stage for stage in (TEXT, *STAGES) if stage.name == name)
    if names := changed(done["inputs"], stage.inputs(run)):
        raise UserError(f"{run.folder}: since stage {name} ran, {', '.join(names)} changed; {mend}")
    if gone := [path for path in stage.outputs(run) if not path.exists()]:
        raise UserError(f"{gone[0]}: stage {name} made it, and it is gone; {mend}")
    return {name: done["fingerprint"]}


def _text_inputs(run: Run) -> dict[str, str]:
    """What the blocks of the original text depend on, translated or not."""
    config = run.config
    return {
        "seed": str(config.seed),
        "tokenizer": hash_tokenizer_files(run, run.base),
        **_text(run, "corpus"),
        **_values(config, "corpus", _PLACES),
        **_values(config, "blocks"),
    }


def _anchors_inputs(run: Run) -> Mapping[str, str]:
    config = run.config
    if run.finder is None:
        path = {"anchors.path": run.manifest.hash_path(Path(run.dictionary))}
        return {**path, **_values(config, "anchors", (*_FOUND, *_DRAWING))}
    told = _values(config, "anchors")
    inputs = {
        "seed": str(config.seed),
        "anchors.extractor": run.finder,
        **{f"anchors.{key}": told[f"anchors.{key}"] for key in _FINDING[run.finder]},
        **_text(run, "corpus"),
        **_values(config, "corpus", _PLACES),
    }
    if run.finder == "endpoint":
        return {**inputs, **{f"endpoint.{name}": str(getattr(config.endpoint, name)) for name in ("base_url", "model")}}
    if run.finder == "local":
        return inputs
    inputs |= {**_text(run, "retain"), **_values(config, "retain", (*_PLACES, "weight", "rows"))}
    if run.reinforces_first:
        inputs |= {**_finished(run, "reinforce"), "model.folder": hash_model(run, run.base)}
    return inputs


def _prepare_inputs(run: Run) -> Mapping[str, str]:
    config = run.config
    retained = _text(run, "retain") | _values(config, "retain", (*_PLACES, "weight", "rows"))
    if run.anchored:
        _finished(run, "anchors")
    return {
        # The dictionary's content, which a review changes after the stage that wrote it; not where it came from.
        **({"anchors.json": run.manifest.hash_path(run.anchors)} if run.anchored else {}),
        **_text_inputs(run),
        **_values(config, "anchors", _FOUND),
        **(retained if config.retain.rows else {}),
    }


def _reinforce_inputs(run: Run) -> Mapping[str, str]:
    config = run.config
    if config.model.reinforced is not None:
        return {"model.reinforced": hash_model(run, run.reinforced)}
    # Its blocks must stand, but it reads the original text only: another dictionary changes nothing for it.
    _finished(run, "text" if run.reinforces_first else "prepare")
    return {
        **_text_inputs(run),
        "model.folder": hash_model(run, run.base),
        **_values(config, "model", (*_PLACES, *_LAYOUT, *_FORMS)),
        **_values(config, "reinforce", (*_LAYOUT, *_FORMS)),
        **_forms(config, "reinforce"),
    }


def _forms(config: Config, stage: str) -> dict[str, str]:
    """How the weights that a training stage's result depends on are held, where that is not in full."""
    found = {}
    adapter = getattr(config, stage).weights == "lora"
    if adapter:
        found |= {f"{stage}.weights": "lora", **_values(config, "lora")}
    if config.model.base != "full" and (adapter or stage == "forget"):
        found["model.base"] = config.model.base
    if stage == "forget" and config.reinforce.weights == "int8-delta":
        found["reinforce.weights"] = "int8-delta"
    return found


def _forget_inputs(run: Run) -> Mapping[str, str]:
    config = run.config
    # The best checkpoint by a measure depends on what is measured, and when.
    selecting = config.forget.select != "last"
    return {
        **_finished(run, "prepare"),
        **_finished(run, "reinforce"),
        "seed": str(config.seed),
        "model.folder": hash_model(run, run.base),
        **_values(config, "model", (*_PLACES, *_LAYOUT, *_FORMS)),
        **_values(config, "retain", (*_PLACES, "field", "split")),
        **_values(config, "targets", ("tile", "cache")),
        **_values(config, "forget", (*_LAYOUT, *_FORMS)),
        **_forms(config, "forget"),
        **({**hash_questions(run), "evals.every": str(config.evals.every)} if selecting else {}),
    }


def _eval_inputs(run: Run) -> Mapping[str, str]:
    return {
        **_finished(run, "forget"),
        **hash_questions(run),
        "evals.completion_tokens": str(run.config.evals.completion_tokens),
        **{f"model {name}": hash_model(run, folder) for name, folder in compared(run).items()},
        **{f"tokenizer {name}": hash_tokenizer_files(run, folder) for name, folder in compared(run).items()},
    }


def _export_inputs(run: Run) -> Mapping[str, str]:
    papers = hash_tokenizer_files(run, run.base, (*TOKENIZER_FILES, *LICENCE_FILES, "generation_config.json"))
    return {**_finished(run, "forget"), "tokenizer and licence": papers, **_values(run.config, "export")}


# Before the chain, where the reinforced model helps to find the anchors: blocks that need none.
TEXT = Stage(
    "text",
    _text_inputs,
    lambda run, _: prepare.cut(run),
    lambda run: [run.reinforce_blocks / "blocks.json"],
    together=False,
)
STAGES: tuple[Stage, ...] = (
    Stage("anchors", _anchors_inputs, lambda run, _: anchors.anchors(run), lambda run: [run.anchors]),
    Stage(
        "prepare",
        _prepare_inputs,
        lambda run, _: prepare.prepare(run),
        lambda run: [folder / "blocks.json" for folder in (run.blocks, run.retain_blocks) if folder is not None],
        together=False,
    ),
    Stage(
        "reinforce", _reinforce_inputs, reinforce.reinforce, lambda run: [run.reinforced / "config.json"], trains=True
    ),
    Stage(
        "forget",
        _forget_inputs,
        forget.forget,
        lambda run: [run.unlearned / "config.json", run.unlearned / "steps.json", run.evals / "curve.json"],
        trains=True,
    ),
    Stage(
        "eval",
        _eval_inputs,
        lambda run, _: eval.evaluate(run),
        lambda run: [run.evals / f"{name}.json" for name in ("summary", "completions", "passage", "questions")],
    ),
    Stage("export", _export_inputs, lambda run, _: export.export(run), lambda run: [run.export / "config.json"]),
    Stage(
        "report",
        lambda run: {},
        lambda run, _: run.say(f"  {write_report(run.folder)}"),
        lambda run: [run.folder / "report.html"],
        together=False,
        always=True,
    ),
)


def run_chain(config: Config, stages: tuple[str, ...] = tuple(stage.name for stage in STAGES)) -> Run:
    """Runs the named stages of `config` in the chain's order; a stage whose inputs are those of last time does nothing.

    Raises:
      UserError: a fault in what the user gave. jaxforget.train.loop.Preempted: stopped by SIGTERM, or in training
        by SIGINT (a notebook's interrupt), everything saved.
    """
    with naming_options(config):
        run = Run(config)
        check(run, stages)
        chain = links(run, stages)
        _start(run, chain)
        for stage in chain:
            run_stage(run, stage)
        if "eval" in stages:
            say_verdict(run, closing="report" in stages)
    return run


def say_verdict(run: Run, *, closing: bool) -> None:
    """Say the verdict of a run that was measured, and with `closing` the commands that a user may want next."""
    run.say(judge_run(run.folder).line(sys.stderr))
    if closing:
        folder = shlex.quote(str(run.folder))
        run.say(f"Open {run.folder / 'report.html'}, then try:")
        run.say(f"  jaxforget chat {folder}                        talk to base and the unlearned model side by side")
        run.say(f"  jaxforget eval {folder} suite=robustness       attack it")


def links(run: Run, names: Collection[str]) -> tuple[Stage, ...]:
    """The stages of these names, and what they cannot do without, in the order in which they depend on each other.

    Anchors that the reinforced model helps to find come behind it.
    """
    if not run.reinforces_first:
        return tuple(stage for stage in STAGES if stage.name in names)
    stages = {stage.name: stage for stage in STAGES}
    first = [name for name in ("reinforce", "anchors") if name in names or "anchors" in names]
    cut = [TEXT] if "reinforce" in first and run.config.model.reinforced is None else []
    rest = [stage for stage in STAGES if stage.name in names and stage.name not in ("reinforce", "anchors")]
    return (*cut, *(stages[name] for name in first), *rest)


def preview_anchors(config: Config) -> str:
    """What an endpoint would be asked for anchors, with one prompt in full; asks nothing.

    Raises:
      UserError: another extractor is set; a fault in the text.
    """
    with naming_options(config):
        run = Run(config)
        if run.finder != "endpoint":
            raise UserError(
                "--dry-run shows what an endpoint would be asked for anchors; set anchors.extractor=endpoint"
            )
        check(run, ("anchors",))
        return anchors.preview(run)


def run_suites(config: Config, names: str, *, dry_run: bool = False) -> Run:
    """Measures suites of evaluations on the models of a run whose chain has come to its end.

    Args:
      config: the run's.
      names: of suites or their groups, separated by commas; "all". See `jaxforget.stages.suites.catalogue`.
      dry_run: measure nothing; say what each suite would ask an endpoint, with one prompt in full.

    Raises:
      UserError: an unknown name, a run whose stage forget is not up to date, data that is missing or unfit. What was
        measured before that stands: the same call goes on from there.
    """
    suites = chosen(SUITES, names)
    with naming_options(config):
        run = Run(config)
        check(run, ("eval",))
        _start(run, STAGES)
        _finished(run, "forget")
        if dry_run:
            preview(run, suites)
            return run
        stages = {stage.name: stage for stage in STAGES}
        if any(suite.name == "probability" for suite in suites):
            run_stage(run, stages["eval"])
        _save_config(run)
        rows = measure(run, SUITES, suites, named=[name.strip() for name in names.split(",")])
        attacks = read_attack_metrics(run.folder)
        attacked = [row for row in rows if row["metric"] in attacks]
        forgetful = [
            row for row in attacked if row["model"] not in ("base", "reinforced")
        ]  # those two were never to forget
        for line in [*leak_table(attacked), *brought_back(forgetful)]:
            run.say(f"  {line}")
        run.say(f"  {run.evals / 'summary.md'}")
        say_verdict(run, closing=False)
        if (run.folder / "report.html").is_file():
            run_stage(run, stages["report"])
    return run


def run_stage(run: Run, stage: Stage) -> bool:
    """Runs one stage unless it is up to date; says what changed since it last ran. Whether it ran."""
    inputs = dict(stage.inputs(run))
    if not stage.always or not (run.folder / "config.yaml").is_file():
        # A page only shows: what it is told must not replace what the run was made with.
        _save_config(run)
    done = run.manifest.stage(stage.name)
    standing = all(path.exists() for path in stage.outputs(run))
    wait_for_all(f"{stage.name}: judged")  # before any process changes what the others judge by
    if done and standing and done["inputs"] == inputs and not stage.always:
        run.say(f"{stage.name}: up to date")
        _tidy(run, stage)
        return False
    if hosts_preempted():
        raise Preempted(stage.name)
    why = ""
    if done and not stage.always:
        names = changed(done["inputs"], inputs)
        why = f" again: {', '.join(names)} changed" if names else " again: its output is gone"
    run.say(f"{stage.name}{why}")
    run.manifest.strike(stage.name)
    began = time.perf_counter()
    _work(run, stage, fingerprint(inputs))
    seconds = time.perf_counter() - began
    run.manifest.record(stage.name, inputs, seconds)
    _tidy(run, stage)
    run.say(f"  {seconds:.1f} s")
    return True


def _tidy(run: Run, stage: Stage) -> None:
    """Removes the checkpoints of a stage that is recorded: killed before that, it goes on from them in no time."""
    if stage.trains and jax.process_index() == 0:
        # A network disk may hold on to some of it: without the mark that counts for nothing, and the stage is done.
        with contextlib.suppress(OSError):
            discard(run.checkpoints(stage.name))


def _work(run: Run, stage: Stage, mark: str) -> None:
    """Does the stage's work: on every process at once, or on the first for all."""
    if stage.together or jax.process_index() == 0:
        stage.work(run, mark)
    wait_for_all(f"{stage.name}: done")
    if not all(path.exists() for path in stage.outputs(run)):
        raise UserError(f"out={run.folder}: this process does not see what the first one wrote; name a shared folder")


def _start(run: Run, chain: Collection[Stage]) -> None:
    """Makes the folder and notes the surroundings; where it is only shown, those of what is shown stay."""
    try:
        run.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={run.folder}: cannot be made: {error.strerror}; give another out=") from None
    if not (all(stage.always for stage in chain) and run.manifest.described()):
        run.manifest.describe([Path(sys.argv[0]).name, *sys.argv[1:]])


def _save_config(run: Run) -> None:
    """Saved once a stage has taken it: a refused configuration must not replace the one that the run was made with."""
    path, text = run.folder / "config.yaml", to_yaml(run.config)
    if jax.process_index() == 0 and not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)


def stage_seconds(run: Run) -> dict[str, Any]:
    """Seconds that each finished stage took."""
    found = {stage.name: run.manifest.stage(stage.name) for stage in STAGES}
    return {name: entry["seconds"] for name, entry in found.items() if entry}
