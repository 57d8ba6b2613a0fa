"""The chain of stages: their order, when a stage need not run again, and what runs it."""

import contextlib
import shlex
import sys
import time
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import jax

from jaxforget.config import TRAINING, Config, naming_options, to_yaml, told_options
from jaxforget.errors import Preempted, UserError
from jaxforget.evals.catalogue import choose
from jaxforget.evals.tables import attack_lines, effective_attack_lines
from jaxforget.files import write_text
from jaxforget.manifest import fingerprint
from jaxforget.processes import on_first_process, wait_for_all
from jaxforget.report.artefacts import read_attack_metrics
from jaxforget.report.verdict import judge_run
from jaxforget.stages import anchors, eval, export, forget, prepare, reinforce, report, undo
from jaxforget.stages.check import check
from jaxforget.stages.estimate import expected_seconds, plan_chain
from jaxforget.stages.folder import check_folder, locked
from jaxforget.stages.measure import measure_suites, preview_suites
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage
from jaxforget.train.checkpoint import discard
from jaxforget.train.loop import Diverged, hosts_preempted
from jaxforget.train.metrics import duration

# The commands, in the order in which a run without surprises passes them; `order` puts them as their needs require.
STAGES: tuple[Stage, ...] = (
    anchors.STAGE,
    prepare.STAGE,
    reinforce.STAGE,
    forget.STAGE,
    undo.STAGE,
    eval.STAGE,
    export.STAGE,
    report.STAGE,
)
TEXT = prepare.TEXT  # no command: runs where the reinforced model is trained before the anchors are known


def run_chain(
    config: Config,
    stages: tuple[str, ...] | None = None,
    *,
    again: bool = False,
    force: bool = False,
) -> Run:
    """Run the named stages of the chain, each unless it is up to date.

    Args:
      config: the run's configuration.
      stages: names of stages; None takes all that the method needs.
      again: replace finished results of other options, and discard their checkpoints; without it that is refused.
      force: accept an `out` that holds other files or lies inside another run.

    Raises:
      UserError: a mistake of the user.
      jaxforget.errors.Preempted: stopped by SIGTERM, or in training by SIGINT; everything is saved.
    """
    with naming_options(config):
        run = Run(config)
        check_folder(run, force=force)
        stages = needed_stages(run) if stages is None else stages
        check(run, stages)
        chain = order(run, stages)
        expected = _expected_time(run, chain)  # before the record of the devices that measured it is replaced
        with _opened(run, chain):
            if not again:
                _check_replaced(run, chain)
            if expected is not None:
                run.say(expected)
            for number, stage in enumerate(chain, 1):
                run_stage(run, stage, again=again, place=f"stage {number} of {len(chain)}, " if len(chain) > 1 else "")
                if expected is None and stage.trains and number < len(chain):
                    # A new run knows nothing at its start; the first stage that trains tells the time of the rest.
                    expected = _expected_time(run, chain[number:])
                    if expected is not None:
                        run.say(expected)
            if not all(stage.always for stage in chain):
                _save_config(run)
            if "eval" in stages:
                say_verdict(run, closing="report" in stages)
    return run


def needed_stages(run: Run) -> tuple[str, ...]:
    """Return the names of the stages that the run's method needs: some need no anchors or no reinforced model."""
    unneeded = set() if run.objective.needs_reinforced else {"reinforce"}
    if not run.undoes:
        unneeded.add("undo")
    if not run.translates and not run.anchored:
        unneeded.add("anchors")
    return tuple(stage.name for stage in STAGES if stage.name not in unneeded)


def say_verdict(run: Run, *, closing: bool) -> None:
    """Say the verdict of a measured run, and with `closing` the commands that a user may want next."""
    run.say(judge_run(run.folder).line(sys.stderr), coloured=True)
    if closing:
        folder = shlex.quote(str(run.folder))
        run.say(f"Open {run.folder / 'report.html'}, then try:")
        run.say(f"  jaxforget chat {folder}                        talk to base and the unlearned model side by side")
        run.say(f"  jaxforget eval {folder} suite=robustness       attack it")


def order(run: Run, names: Collection[str]) -> tuple[Stage, ...]:
    """Return the named stages, and those that they bring along, each after the stages that it needs."""
    known = _by_name()
    needs: dict[str, Needs] = {}

    def want(name: str) -> None:
        if name not in needs:
            needs[name] = known[name].needs(run)
            for brought in needs[name].brings:
                want(brought)

    placed: dict[str, Stage] = {}

    def place(name: str) -> None:
        for earlier in (*needs[name].after, *needs[name].stages):
            if earlier in needs:
                place(earlier)
        placed.setdefault(name, known[name])

    for name in names:
        want(name)
    for name in known:
        if name in needs:
            place(name)
    return tuple(placed.values())


def _by_name() -> dict[str, Stage]:
    return {stage.name: stage for stage in (*STAGES, TEXT)}


def run_stage(run: Run, stage: Stage, *, again: bool, place: str = "") -> bool:
    """Run one stage unless it is up to date; say what changed since it last ran.

    Args:
      again: replace a finished result of other options, or discard its checkpoint; without it that is refused.
      place: begins the stage's messages, as "stage 2 of 7, ".

    Returns:
      True if the stage ran, False if it was up to date.
    """
    needs = stage.needs(run)
    for name in (*needs.after, *needs.stages):
        require(run, name)
    inputs = stage.inputs(run)
    changes, finished = stage.changes(run, inputs), stage.finished(run)
    if not again:
        if finished and changes:
            _refuse(run, stage, f"{', '.join(changes)} changed")
        if not finished and (lost := stage.discards(run, inputs)[0]):
            raise UserError(lost)
    wait_for_all(f"{stage.name}: judged")  # before any process changes what the others judge by
    if finished and not changes and not stage.always:
        _check_whole(run, stage)
        run.say(f"{place}{stage.name}: up to date")
        _tidy(run, stage)
        if stage.refresh is not None:
            stage.refresh(run)
        return False
    if hosts_preempted():
        raise Preempted(stage.name)
    _verify(run, stage, needs)
    why = ""
    if run.manifest.stage(stage.name) and not stage.always:
        why = f" again: {', '.join(changes)} changed" if changes else " again: its output is gone or damaged"
    run.say(f"{place}{stage.name}{why}")
    began = time.perf_counter()
    with _kept_if_refused(run, stage):
        if not stage.always or not (run.folder / "config.yaml").is_file():
            # A report only shows a run: its options must not replace those that the run was made with.
            _save_config(run)
        run.manifest.strike(stage.name)
        run.manifest.unseal(stage.products(run))
        if stage.trains:
            run.manifest.begin(stage.name, inputs, told_options(run.config))
        _work(run, stage, fingerprint(inputs))
    seconds = time.perf_counter() - began
    run.manifest.record(stage.name, inputs, seconds, options=told_options(run.config), outputs=stage.products(run))
    _tidy(run, stage)
    run.say(f"  {seconds:.1f} s")
    return True


def _check_whole(run: Run, stage: Stage) -> None:
    """Refuse a trained model of which a file is gone or cut; to make it again takes long, so the user decides."""
    if not stage.trains:
        return
    for file in run.manifest.damaged([name for name in stage.products(run) if name != run.evals.name]):
        whole = run.folder / Path(file).parts[0]
        raise UserError(f"{run.folder / file}: is gone or damaged; remove {whole}, and the same command makes it again")


def require(run: Run, name: str) -> None:
    """Check that a stage, and every stage before it, is finished and up to date.

    Raises:
      UserError: it is not; names the command to run.
    """
    stage = _by_name()[name]
    command = f"run jaxforget {name} (or jaxforget run) with the same configuration"
    if run.manifest.stage(name) is None:
        raise UserError(f"{run.folder}: stage {name} has not finished; {command}")
    needs = stage.needs(run)
    for earlier in (*needs.after, *needs.stages):
        require(run, earlier)
    if names := stage.changes(run, stage.inputs(run)):
        raise UserError(f"{run.folder}: since stage {name} ran, {', '.join(names)} changed; {command}")
    if gone := [path for path in stage.outputs(run) if not path.exists()]:
        raise UserError(f"{gone[0]}: stage {name} wrote it, and it is gone; {command}")


def _verify(run: Run, stage: Stage, needs: Needs) -> None:
    """Check size and hash of all that earlier stages wrote for this one.

    The dictionary is left out: a review may change it, and later stages compare its content themselves.

    Raises:
      UserError: a file is damaged or gone.
    """
    known = _by_name()
    names, found = [*needs.after, *needs.stages], []
    while names:
        name = names.pop()
        if name not in found:
            found.append(name)
            earlier = known[name].needs(run)
            names += (*earlier.after, *earlier.stages)
    products = {product for name in found if name != "anchors" for product in known[name].products(run)}
    if stage.always:  # it shows what is measured, and needs no model
        products = {"evals"}
    on_first_process(lambda: run.manifest.verify(sorted(products - set(stage.products(run)))))


def preview_anchors(config: Config) -> str:
    """Return what an endpoint would be asked for anchors, with one prompt in full; ask nothing.

    Raises:
      UserError: another extractor is set, or the text cannot be read.
    """
    with naming_options(config):
        run = Run(config)
        if run.extractor != "endpoint":
            raise UserError(
                "--dry-run shows what an endpoint would be asked for anchors; set anchors.extractor=endpoint"
            )
        check(run, ("anchors",))
        return anchors.preview(run)


def run_suites(config: Config, names: str, *, dry_run: bool = False) -> Run:
    """Measure evaluation suites on the models of a run whose unlearned model is finished.

    Args:
      config: the run's configuration.
      names: suites or their groups, separated by commas, or "all"; see `jaxforget.evals.catalogue`.
      dry_run: measure nothing; say what each suite would ask an endpoint, with one prompt in full.

    Raises:
      UserError: an unknown name, a run whose unlearned model is not up to date, data that is missing or unfit. What was
        measured before is kept, and the same call resumes.
    """
    suites = choose(names)
    with naming_options(config):
        run = Run(config)
        check_folder(run, force=True)
        check(run, ("eval",))
        with _opened(run, STAGES):
            require(run, run.unlearning[-1])
            if dry_run:
                preview_suites(run, suites)
                return run
            stages = _by_name()
            measured = stages["eval"]
            _verify(run, measured, measured.needs(run))
            gone = run.manifest.stage("eval") is not None and not measured.finished(run)
            if gone or any(suite.name == "probability" for suite in suites):
                run_stage(run, measured, again=True)
            run.manifest.unseal(["evals"])
            try:
                rows = measure_suites(run, suites, named=[name.strip() for name in names.split(",")])
            finally:  # what was measured before a refusal stays recorded
                run.manifest.seal(["evals"])
            _save_config(run)  # not before: options that a suite refuses must not replace those that were used
            attacks = read_attack_metrics(run.folder)
            attacked = [row for row in rows if row.metric in attacks]
            # base and reinforced were never meant to forget
            forgetful = [row for row in attacked if row.model not in ("base", "reinforced")]
            for line in [*attack_lines(attacked), *effective_attack_lines(forgetful)]:
                run.say(f"  {line}")
            run.say(f"  {run.evals / 'summary.md'}")
            say_verdict(run, closing=False)
            if stages["export"].finished(run):
                export.refresh_card(run)
            if (run.folder / "report.html").is_file():
                run_stage(run, stages["report"], again=True)
    return run


def _expected_time(run: Run, chain: Iterable[Stage]) -> str | None:
    """Return a line with the time that the chain will take, as far as the run has measured it; None if it has not."""
    if not (run.folder / "metrics.jsonl").is_file():
        return None
    working = [planned for planned in plan_chain(run, chain) if planned.runs and planned.why != "always"]
    expected = {planned.name: expected_seconds(run, planned) for planned in working}
    known = {name: seconds for name, seconds in expected.items() if seconds is not None}
    if not set(TRAINING) & set(known):
        return None
    unknown = [name for name in expected if name not in known]
    beside = f"; {', '.join(unknown)} not measured yet" if unknown else ""
    return f"expected time: {duration(sum(known.values()))} for {', '.join(known)}{beside}"


def stage_seconds(run: Run) -> dict[str, Any]:
    """Return the seconds that each finished stage took."""
    found = {stage.name: run.manifest.stage(stage.name) for stage in STAGES}
    return {name: entry["seconds"] for name, entry in found.items() if entry}


@contextlib.contextmanager
def _opened(run: Run, chain: Iterable[Stage]):
    """Lock the run's folder and note versions and devices; a chain that only shows a run changes neither."""
    shows = all(stage.always for stage in chain)
    with contextlib.nullcontext() if shows and run.folder.is_dir() else locked(run):
        if not (shows and run.manifest.described()):
            run.manifest.describe([Path(sys.argv[0]).name, *sys.argv[1:]])
        yield


def _check_replaced(run: Run, chain: Iterable[Stage]) -> None:
    """Refuse before any stage runs what `run_stage` would refuse after the stages before it."""
    chain = tuple(chain)
    for stage, planned in zip(chain, plan_chain(run, chain), strict=True):
        if planned.refused:
            _refuse(run, stage, planned.why)
        if planned.discards:
            raise UserError(planned.discards)


def _refuse(run: Run, stage: Stage, why: str) -> None:
    """Raise `UserError` if running a finished stage again would replace a result that took long to make."""
    if stage.keeps and all(path.is_relative_to(run.folder) for path in stage.outputs(run)):
        raise UserError(
            f"{run.folder}: stage {stage.name} is finished, and {why} since; add --again (in "
            "Python again=True) to replace its result, or name another out= to keep it"
        )


@contextlib.contextmanager
def _kept_if_refused(run: Run, stage: Stage):
    """Keep the configuration of a run, and the record of a stage, if the enclosed work of the stage is refused."""
    path = run.folder / "config.yaml"
    config = path.read_text(encoding="utf-8") if path.is_file() else None
    records = run.manifest.snapshot()
    try:
        yield
    except UserError as error:
        if isinstance(error, Diverged):  # other options may then replace its checkpoints without being asked
            run.manifest.abandon(stage.name)
        run.manifest.restore(records, stage.products(run))
        if config is not None and jax.process_index() == 0:
            write_text(path, config)
        raise


def _work(run: Run, stage: Stage, fingerprint: str) -> None:
    """Do the work of a stage: on every process, or on the first one for all."""
    if stage.together or jax.process_index() == 0:
        stage.work(run, fingerprint)
    wait_for_all(f"{stage.name}: done")
    if not all(path.exists() for path in stage.outputs(run)):
        raise UserError(f"out={run.folder}: this process does not see what the first one wrote; name a shared folder")


def _tidy(run: Run, stage: Stage) -> None:
    """Remove the checkpoints of a recorded stage; a stage killed before that resumes from the last one."""
    if stage.trains and jax.process_index() == 0:
        # A network disk may keep some of the files: they are ignored, because the stage is recorded.
        with contextlib.suppress(OSError):
            discard(run.checkpoints(stage.name))


def _save_config(run: Run) -> None:
    """Save the configuration, if it is another than the saved one."""
    path, text = run.folder / "config.yaml", to_yaml(run.config, run.folder)
    if jax.process_index() == 0 and not (path.is_file() and path.read_text(encoding="utf-8") == text):
        write_text(path, text)
