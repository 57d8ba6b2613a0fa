"""The stages of scripts/novel, in order; each is skipped once it is done."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import OmegaConf

from jaxforget.anchors.quality import measure_quality
from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.files import read_json, write_json
from jaxforget.models.tokenizer import load_tokenizer
from jaxforget.pipeline import run_chain, run_suites
from jaxforget.stages.run import Run
from novels.fetch import fetch_books, fetch_model
from novels.questions import write_questions
from novels.results import SUITES, ask, write_results
from novels.texts import Texts, load_texts, write_excerpts, write_replay, write_training
from novels.times import Times

# Seconds on two quiet CPU cores, for the time that is left.
TYPICAL = {"model": 20, "novels": 30, "texts": 10, "replay": 60, "base": 1400, "control": 800}
TYPICAL |= {"dictionary": 900, "paper": 750, "recommended": 1200, "questions": 250, "evaluation": 2000}
PLACE, OWN = "runs/novel", "configs/novel"  # paths below them are below --out and --configs instead
# A whole book has too many blocks for the fixed number of steps.
FULL = {"forget.max_steps": None, "forget.epochs": 3.0}
DICTIONARY = ("anchors", "prepare", "reinforce")


def run_novel(
    out: Path, configs: Path, *, model: Path | None, texts: Path | None, full: bool, last: str | None = None
) -> None:
    """Run the stages; an interrupted run continues where it stopped.

    Args:
      out: folder of everything that is downloaded or made.
      configs: folder of the configuration.
      model: a model's folder, or None to fetch one.
      texts: folder of the novels, or None to fetch them.
      full: take whole books.
      last: the last stage to run; None for all.

    Raises:
      UserError: a download fails, or an input is unfit.
    """
    # A place that the user names is read, never filled.
    if model is not None and not (model / "config.json").is_file():
        raise UserError(f"--model {model}: holds no config.json; name a Hugging Face folder, or leave it out")
    if texts is not None and not texts.is_dir():
        raise UserError(f"--texts {texts}: no such folder; name one with the novels, or leave it out to fetch them")
    settings = load_texts(configs / "texts.yaml", full=full)
    keep_settings(out, settings, model=model, texts=texts)
    times, downloads = Times(out / "seconds.json", TYPICAL), out / "downloads"
    excerpts, replay, training = out / "excerpts", out / "replay.txt", out / "texts"

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    with times("model"):
        base = out / "model" if model is None else model
        if model is None and not (base / "config.json").is_file():
            fetch_model(downloads, base)
        tokenizer = load_tokenizer(base)
    with times("novels"):
        novels = out / "novels" if texts is None else texts
        if texts is None and not novels.is_dir():
            fetch_books(downloads, novels)
    with times("texts"):
        if not excerpts.is_dir():
            write_excerpts(settings, novels, excerpts, count)
    with times("replay"):
        if not replay.is_file():
            write_replay(settings, base, configs / "replay.json", replay)
        if not training.is_dir():
            write_training(training, excerpts, replay)
    for name in ("base", "control"):
        with times(name):
            chain(out, configs, f"{name}.yaml", ("prepare", "reinforce"), {"model.folder": str(base)})
        if name == last:
            return
    changes = FULL if full else {}
    with times("dictionary"):
        recommended = chain(out, configs, "recommended.yaml", DICTIONARY, changes)
    if last == "dictionary":
        return
    with times("paper"):
        paper = chain(out, configs, "paper.yaml", (*DICTIONARY, "forget"), changes)
    with times("recommended"):
        recommended = chain(out, configs, "recommended.yaml", ("forget", "eval"), changes)
    if last == "recommended":
        return
    with times("questions"):
        made, asked = out / "questions", out / "asked.json"
        write_questions(settings, excerpts, configs, made)
        folders = {
            "original": base,
            "base": recommended.base,
            "control": recommended.control,
            "paper": paper.unlearned,
            "unlearned": recommended.unlearned,
        }
        probes = {name: configs / f"{name}.json" for name in ("questions", "general")} | {"cloze": made / "cloze.json"}
        ask(folders, probes, excerpts / "heldout", recommended.config.blocks.length, asked)
    with times("evaluation"):
        run_suites(recommended.config, SUITES)
        run_chain(recommended.config, ("report",), again=True, force=True)
    names = read_json(configs / "names.json").get(settings.target, {})
    quality = measure_quality(
        tuple(read_json(recommended.anchors)),
        [*names.get("people", ()), *names.get("places", ())],
        (excerpts / "target" / f"{settings.target}.txt").read_text(encoding="utf-8"),
        real=names.get("real", ()),
    )
    write_results(out / "results.json", recommended, asked, times.seconds, dataclasses.asdict(quality))


def keep_settings(out: Path, settings: Texts, **places: Path | None) -> None:
    """Store what the texts in `out` depend on, or compare it with what is stored.

    Raises:
      UserError: `out` holds texts of other settings.
    """
    path = out / "settings.json"
    named = {name: None if place is None else str(place.resolve()) for name, place in places.items()}
    given = {**dataclasses.asdict(settings), **named}
    stored = read_json(path) if path.is_file() else given
    if other := [name for name in given if stored.get(name) != given[name]]:
        raise UserError(
            f"--out {out}: holds texts with another {', '.join(other)} ({stored.get(other[0])} instead of "
            f"{given[other[0]]}); name another --out"
        )
    write_json(path, given)


def chain(
    out: Path, configs: Path, file: str, stages: tuple[str, ...], changes: Mapping[str, Any] = MappingProxyType({})
) -> Run:
    """Run stages of a configuration with its paths moved below `out` and `configs`."""
    values = OmegaConf.load(configs / file)
    for key, value in changes.items():
        OmegaConf.update(values, key, value)
    moved = move(OmegaConf.to_container(values), {PLACE: out, OWN: configs})
    return run_chain(config_from(moved), stages, again=True, force=True)  # the script owns its folder


def move(value: Any, places: Mapping[str, Path]) -> Any:
    """Return configuration with every path below a folder in `places` moved below the folder that stands there."""
    if isinstance(value, dict):
        return {name: move(inner, places) for name, inner in value.items()}
    for old, new in places.items():
        if isinstance(value, str) and value.startswith(f"{old}/"):
            return str(new / value.removeprefix(f"{old}/"))
    return value
