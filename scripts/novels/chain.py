"""The stages of scripts/novel, in order; each is skipped once it is done."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from jaxforget.config import config_from
from jaxforget.models.tokenizer import load_tokenizer
from jaxforget.pipeline import run_chain
from jaxforget.stages.run import Run
from novels.fetch import fetch_books, fetch_model
from novels.texts import load_texts, write_excerpts, write_replay, write_training
from novels.times import Times

# Seconds on two quiet CPU cores, for the time that is left.
TYPICAL = {"model": 20, "novels": 30, "texts": 10, "replay": 90, "base": 1900, "control": 1100}
PLACE = "runs/novel"  # every path below it in the configuration is below --out instead


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
    settings = load_texts(configs / "texts.yaml", full=full)
    times, downloads = Times(out / "seconds.json", TYPICAL), out / "downloads"
    excerpts, replay, training = out / "excerpts", out / "replay.txt", out / "texts"

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    with times("model"):
        base = out / "model" if model is None else model
        if not (base / "config.json").is_file():
            fetch_model(downloads, base)
        tokenizer = load_tokenizer(base)
    with times("novels"):
        novels = out / "novels" if texts is None else texts
        if not novels.is_dir():
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
            chain(out, configs / f"{name}.yaml", ("prepare", "reinforce"), {"model.folder": str(base)})
        if name == last:
            return


def chain(out: Path, file: Path, stages: tuple[str, ...], changes: dict[str, Any]) -> Run:
    """Run stages of the configuration in `file`, with its paths below `PLACE` moved below `out`."""
    values = OmegaConf.load(file)
    for key, value in changes.items():
        OmegaConf.update(values, key, value)
    placed = move(OmegaConf.to_container(values), out)
    return run_chain(config_from(placed), stages, again=True, force=True)  # the script owns its folder


def move(value: Any, out: Path) -> Any:
    """Return configuration with every path below `PLACE` moved below `out`."""
    if isinstance(value, dict):
        return {name: move(inner, out) for name, inner in value.items()}
    if isinstance(value, str) and value.startswith(f"{PLACE}/"):
        return str(out / value.removeprefix(f"{PLACE}/"))
    return value
