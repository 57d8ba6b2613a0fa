"""The protocol of a comparison: the trials of each method, the choice of its settings, and the chosen runs."""

import dataclasses
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxforget.compare.measures import measure, score, split_questions
from jaxforget.compare.picture import write_picture
from jaxforget.compare.search import MOST_TRIALS, Trial, method_config, search, unused_settings
from jaxforget.compare.table import conclude, markdown
from jaxforget.compare.worlds import seed_config
from jaxforget.config import Config, naming_options, to_yaml
from jaxforget.errors import UserError
from jaxforget.files import read_json, write_json, write_text
from jaxforget.pipeline import needed_stages, run_chain
from jaxforget.processes import wait_for_all
from jaxforget.stages.check import check
from jaxforget.stages.folder import check_folder, locked
from jaxforget.stages.prepare import lend_blocks
from jaxforget.stages.run import Run
from jaxforget.train.loop import Diverged
from jaxforget.train.metrics import read_records, step_seconds
from jaxforget.train.objectives import find_method

SHARED = ("anchors", "prepare", "reinforce")


def compare(
    config: Config,
    methods: Sequence[str],
    seeds: Sequence[int] = (0, 1, 2),
    trials: int = MOST_TRIALS,
    *,
    again: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Compare unlearning methods on one configuration under one budget.

    Every method gets the same base, rows and number of forget tokens, and a search of at most `trials` trials over
    learning rate and strength on the first seed. The validation half of the questions chooses, the test half is
    reported. Finished trials are not repeated, so an interrupted comparison resumes.

    Args:
      config: the configuration of a run; `out` receives compare.json, compare.md, compare.svg and compare/.
      methods: names of methods.
      seeds: of the runs with the chosen settings; on the toy world each seed is another world.
      trials: runs of each method's search, 1 to 12.
      again: replace finished runs of other options.
      force: accept an `out` that holds other files or lies inside another run.

    Returns:
      The content of compare.json.

    Raises:
      UserError: a method, a seed or a number of trials that is not valid, a mistake in the configuration, or an `out`
        that another command works in or that a run may not fill.
    """
    check_budget(methods, seeds, trials)
    unused = unused_settings(config, methods)
    with naming_options(config):
        run = Run(config)
        check_folder(run, force=force)
        with locked(run):
            for name, owners in unused.items():
                run.say(f"objective.{name} has no effect: only {', '.join(owners)} would read it")
            result, report = _compare(config, run.folder / "compare", methods, seeds, trials, again)
            if jax.process_index() == 0:
                write_json(run.folder / "compare.json", result)
                write_text(run.folder / "compare.md", report)
                write_picture(run.folder / "compare.svg", result)
            wait_for_all("comparison written")
        run.say(f"  {run.folder / 'compare.json'}, compare.md and compare.svg")
    return result


def check_budget(methods: Sequence[str], seeds: Sequence[int], trials: int) -> None:
    """Raise `UserError` for methods, seeds or a number of trials that cannot be compared."""
    for key, values in (("methods", methods), ("seeds", seeds)):
        if not values:
            raise UserError(f"{key}=: names none; give at least one, separated by commas")
        if repeated := [value for value in values if list(values).count(value) > 1]:
            raise UserError(f"{key}: {repeated[0]} is given twice; give each once")
    for name in methods:
        find_method(name, "methods")
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise UserError(f"seeds={seed}: give whole numbers from 0 to {2**32 - 1}")
    if not 1 <= trials <= MOST_TRIALS:
        raise UserError(f"trials={trials}: give a whole number from 1 to {MOST_TRIALS}")


class _Seed:
    """The runs of one seed, which share anchors, blocks and the reinforced model."""

    def __init__(self, config: Config, seed: int, work: Path, methods: Sequence[str], *, again: bool):
        config = seed_config(config, seed, work)
        self._config = dataclasses.replace(config, evals=dataclasses.replace(config.evals, compare={}))
        self._again = again
        self._folder = work / f"seed_{seed}"
        for method in methods:
            _check(method_config(self._config, method), self._folder / method)
        # A method that needs anchors or a reinforced model, where there is one, prepares for all.
        runs = [Run(method_config(self._config, method)) for method in methods]
        leader = max(runs, key=lambda run: (run.objective.needs_reinforced, run.translates))
        self.parts = split_questions(leader.config, self._folder)
        shared = dataclasses.replace(leader.config, out=str(self._folder / "shared"))
        stages = tuple(name for name in needed_stages(Run(shared)) if name in SHARED)
        self._shared = run_chain(shared, stages, again=again, force=True)
        self._trained: dict[str, Path | None] = {}

    def train(self, trial: Trial) -> Path | None:
        """Run the unlearning stages of a trial; return the unlearned model, or None if training diverged."""
        if trial.name not in self._trained:
            self._trained[trial.name] = self._train(trial)
        return self._trained[trial.name]

    def _train(self, trial: Trial) -> Path | None:
        config, shared = trial.configure(self._config), self._shared
        kind, evals = find_method(trial.method, "methods"), self.parts["validation"].evals
        if config.forget.select == "last":
            # Nothing is chosen by the curve of a trial, so it is measured at both ends only.
            evals = dataclasses.replace(evals, every=0, prompts=None)
        config = dataclasses.replace(
            config,
            out=str(self._folder / trial.method / trial.name),
            evals=evals,
            anchors=dataclasses.replace(config.anchors, path=str(shared.anchors) if shared.anchored else None),
            model=dataclasses.replace(
                config.model, reinforced=str(shared.reinforced) if kind.needs_reinforced else None
            ),
        )
        run, text = Run(config), to_yaml(config)
        run.say(f"-- {trial.name}")
        failure = run.folder / "diverged.json"
        known = failure.is_file() and read_json(failure).get("config") == text
        wait_for_all(f"{trial.name}: read")
        if known:
            run.say("  diverged in an earlier attempt")
            return None
        lend_blocks(shared, run)
        stages = tuple(name for name in needed_stages(run) if name in (*SHARED, *run.unlearning))
        try:
            run_chain(config, stages, again=self._again, force=True)
        except Diverged as error:
            run.say(f"  {error}")
            if jax.process_index() == 0:
                write_json(failure, {"config": text, "error": str(error)})
            return None
        return run.unlearned


def _check(config: Config, folder: Path) -> None:
    """Check the run of a method before any run starts."""
    run = Run(dataclasses.replace(config, out=str(folder)))
    check(run, [name for name in needed_stages(run) if name in (*SHARED, *run.unlearning)])


def _compare(
    config: Config, work: Path, methods: Sequence[str], seeds: Sequence[int], trials: int, again: bool
) -> tuple[dict[str, Any], str]:
    """Return the content of compare.json and of compare.md."""
    say = Run(config).say
    measured: list[dict[str, dict[str, Any]]] = []
    chosen: dict[str, Trial] = {}
    seconds: dict[str, list[float]] = {method: [] for method in methods}
    for seed in seeds:
        say(f"== seed {seed}")
        runs = _Seed(config, seed, work, methods, again=again)
        if not chosen:
            chosen = _choose(runs, config, work, methods, trials)
        models = {method: runs.train(trial) for method, trial in chosen.items()}
        finished = {method: folder for method, folder in models.items() if folder is not None}
        measured.append(measure(runs.parts["test"], finished, attacks=True))
        for method, folder in finished.items():
            seconds[method] += step_seconds(read_records(folder.parent / "metrics.jsonl"), "forget")
    result = conclude(
        measured,
        {method: trial.describe(config) for method, trial in chosen.items()},
        {method: statistics.median(values) if values else None for method, values in seconds.items()},
    )
    return result, markdown(result, seeds, trials)


def _choose(runs: _Seed, config: Config, work: Path, methods: Sequence[str], trials: int) -> dict[str, Trial]:
    """Return the trial of each method with the best score on the validation half; write trials.json."""
    chosen, told = {}, {}
    for method in methods:
        tried = search(config, method)[:trials]
        models = {trial.name: runs.train(trial) for trial in tried}
        finished = {name: folder for name, folder in models.items() if folder is not None}
        if not finished:
            raise UserError(
                f"methods={method}: every trial diverged; lower forget.learning_rate, or leave the method out"
            )
        figures = measure(runs.parts["validation"], finished)
        base, control = figures["base"], figures.get("control")
        scores = {name: score(figures[name], base, control, choosing=True) for name in finished}
        chosen[method] = max((trial for trial in tried if trial.name in scores), key=lambda t: scores[t.name])
        told[method] = [
            {
                "settings": trial.settings,
                "chosen": trial is chosen[method],
                "diverged": trial.name not in scores,
                "score": scores.get(trial.name),
                "validation": figures.get(trial.name),
            }
            for trial in tried
        ]
        if jax.process_index() == 0:
            write_json(work / "trials.json", told)
    return chosen
