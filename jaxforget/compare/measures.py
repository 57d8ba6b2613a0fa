"""The measures of a comparison: the split of the questions, the figures of a model, and the score of a trial."""

import dataclasses
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxforget.config import Config
from jaxforget.errors import UserError
from jaxforget.evals.catalogue import CATALOGUE
from jaxforget.evals.multiple_choice import load_choices
from jaxforget.evals.probes import load_probes
from jaxforget.evals.rows import Row
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.tofu import Asker, forget_quality, harmonic_mean, load_tofu
from jaxforget.files import atomic_folder, write_json, write_text
from jaxforget.processes import wait_for_all
from jaxforget.stages.measure import Models, measure_model, missing_input, read_rows, rows_file, run_inputs
from jaxforget.stages.run import Run

PARTS = ("validation", "test")
MEASURES = ("familiarity", "retained", "perplexity", "target_acc", "margin", "relearned", "int4")
# Suites that are asked of a trial, and the further ones that are asked of the chosen settings only.
CHOOSING, ATTACKS = ("probability", "multiple_choice"), ("weights", "relearning")
FORGOTTEN = ("familiarity", "margin", "relearned")

Figures = Mapping[str, float | None]


def split_answers(groups: Iterable[Iterable[str]]) -> dict[str, str]:
    """Return answer -> "validation" or "test", about half of each group's answers that no earlier group has.

    Questions with one answer ask about one fact, so they stay together: a trial chosen on a fact must not be reported
    on it. The split depends on the answers alone.
    """
    parts: dict[str, str] = {}
    for group in groups:
        answers = sorted({answer.strip() for answer in group} - parts.keys())
        random.Random("validation and test").shuffle(answers)
        parts |= {answer: PARTS[number % 2] for number, answer in enumerate(answers)}
    return parts


def split_questions(config: Config, folder: Path) -> dict[str, Config]:
    """Write the two halves of a run's probes and multiple-choice documents; return the configuration of each half.

    Args:
      config: of the run; evals.probes and evals.choices name the questions.
      folder: receives validation/ and test/.

    Raises:
      UserError: the questions cannot be split, or nothing says what a method must keep.
    """
    place = config.evals.probes
    if place is None:
        raise UserError("evals.probes is not set; a comparison asks its questions, half to choose and half to report")
    probes = load_probes(place)
    groups = {"familiarity": probes.familiarity, "retained": probes.retained}
    for name, asked in groups.items():
        if len({probe.answer.strip() for probe in asked}) < 2 and (asked or name == "familiarity"):
            raise UserError(f"{place}: {name} needs questions with at least two different answers, to split; add some")
    if not probes.retained and config.evals.heldout is None:
        raise UserError(
            f"{place}: holds no retained questions and evals.heldout is not set, so nothing says what a method must "
            "keep; give one of them"
        )
    documents = _documents(config)
    right = [document["choices"][document["answer"]] for some in documents.values() for document in some]
    answers = split_answers([*([probe.answer for probe in asked] for asked in groups.values()), right])
    found = {}
    for part in PARTS:
        here = folder / part
        halves = {
            name: [dataclasses.asdict(probe) for probe in asked if answers[probe.answer.strip()] == part]
            for name, asked in groups.items()
        }
        choices = {
            name: [d for d in some if answers[d["choices"][d["answer"]].strip()] == part]
            for name, some in documents.items()
        }
        kept = {name: some for name, some in choices.items() if some}
        if jax.process_index() == 0:
            write_json(here / "probes.json", halves)
            with atomic_folder(here / "choices") as partial:
                for name, some in kept.items():
                    write_text(partial / f"{name}.jsonl", "".join(json.dumps(d) + "\n" for d in some))
        evals = dataclasses.replace(
            config.evals, probes=str(here / "probes.json"), choices=str(here / "choices") if kept else None
        )
        found[part] = dataclasses.replace(config, out=str(here), evals=evals)
    wait_for_all(f"{folder}: questions split")
    return found


def _documents(config: Config) -> dict[str, list[dict[str, Any]]]:
    """Return the multiple-choice documents about the target by file name; a single file is called target."""
    if config.evals.choices is None:
        return {}
    place = Path(config.evals.choices)
    files = {file.stem: file for file in sorted(place.glob("*.jsonl"))} if place.is_dir() else {"target": place}
    return {
        name: [{"context": d.context, "choices": list(d.choices), "answer": d.answer} for d in load_choices(file)]
        for name, file in files.items()
    }


def measure(config: Config, models: Mapping[str, Path], *, attacks: bool = False) -> dict[str, dict[str, float | None]]:
    """Return the figures of base, of the control and of further models; rows that are up to date are reused.

    Args:
      config: one half of `split_questions`; its `out` keeps the rows.
      models: name -> folder of the further models.
      attacks: measure relearning, rounding to 4 bits and TOFU's forget quality as well.

    Returns:
      Name -> figure by the names in MEASURES, None where there is no data; with `attacks` also "ks_p".
    """
    evals = dataclasses.replace(config.evals, compare={name: str(folder) for name, folder in models.items()})
    run = Run(dataclasses.replace(config, evals=evals))
    loaded = Models(run)
    names = [name for name in loaded if name in ("base", "control", *models)]
    wanted = CHOOSING + (ATTACKS if attacks else ())
    rows: dict[str, list[Row]] = {name: [] for name in names}
    for entry in (entry for entry in CATALOGUE if entry.name in wanted):
        suite = entry.load()
        if reason := missing_input(run, loaded, entry, suite):
            run.say(f"  {entry.name}: left out: {reason}")
            continue
        for name in names:
            measure_model(run, loaded, entry, suite, name)
            rows[name] += (read_rows(rows_file(run, entry.name, name)) or {"rows": []})["rows"]
    found = {name: figures_of(rows[name]) for name in names}
    if attacks:
        quality = _forget_quality(run, loaded, names)
        found = {name: {**figures, "ks_p": quality.get(name)} for name, figures in found.items()}
    return found


def figures_of(rows: Iterable[Row]) -> dict[str, float | None]:
    """Return the figures that a comparison shows, by the names in MEASURES; None where no row has it."""
    values = {row.metric: row.value for row in rows}
    relearned = [name for name in values if name.startswith("relearn_target_")]
    last = max(relearned, key=lambda name: int(name.rpartition("_")[2]), default="")
    sources = {"margin": "target_margin", "relearned": last}
    return {name: values.get(sources.get(name, name)) for name in MEASURES}


def _forget_quality(run: Run, models: Models, names: Iterable[str]) -> dict[str, float]:
    """Return TOFU's forget quality of every model but the control; nothing without a control or without data."""
    place = run.config.evals.tofu
    if place is None or not Path(place).is_dir() or "control" not in models:
        return {}
    template = run.config.evals.tofu_template

    def ratios(name: str) -> list[float]:
        def ask(*, data: Path, template: str) -> list[float]:
            model = models[name]
            asker = Asker(scorer_of(model), model.params, model.tokenizer, template=template)
            return asker.ratios(load_tofu(data)["forget"]).tolist()

        workspace = run_inputs(run, models, "tofu", name).workspace
        return workspace.cached(f"ratios.{name}.json", ask, data=Path(place), template=template)

    control = ratios("control")
    return {name: forget_quality(ratios(name), control) for name in names if name != "control"}


def forgotten(figures: Figures, base: Figures, control: Figures | None) -> float:
    """Return the harmonic mean, over the measures in FORGOTTEN, of the share of the way from base to the control.

    A share is 1 at the control, 0 at base and as far beyond the control. Relearning starts at base's familiarity.

    A measure without data is left out. Without a control its place is taken by 0: no probability, no margin.
    """
    shares = []
    for name in FORGOTTEN:
        # base is not trained again: its knowledge before relearning is where relearning could lead back to.
        start = base["familiarity"] if name == "relearned" else base[name]
        value, end = figures[name], 0.0 if control is None else control[name]
        if value is not None and start is not None and end is not None:
            shares.append(_share(1 - abs(value - end) / abs(start - end)) if start != end else float(value == end))
    return harmonic_mean(shares) if shares else 0.0


def kept(figures: Figures, base: Figures, *, choosing: bool = False) -> float:
    """Return the share of base's other knowledge that is kept, 0 to 1: the harmonic mean of retained and perplexity.

    Args:
      choosing: leave perplexity out where there are retained questions, because its text is not split: it is reported.
    """
    shares = []
    if figures["retained"] is not None and base["retained"]:
        shares.append(_share(figures["retained"] / base["retained"]))
    if figures["perplexity"] and base["perplexity"] and not (choosing and shares):
        shares.append(_share(base["perplexity"] / figures["perplexity"]))
    return harmonic_mean(shares) if shares else 0.0


def score(figures: Figures, base: Figures, control: Figures | None, *, choosing: bool = False) -> float:
    """Return the harmonic mean of `forgotten` and `kept`: a method that is better at both has the higher score."""
    return harmonic_mean([forgotten(figures, base, control), kept(figures, base, choosing=choosing)])


def _share(value: float) -> float:
    return min(1.0, max(0.0, value))
