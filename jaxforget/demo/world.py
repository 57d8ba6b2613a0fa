"""The toy world's files: a universe to forget, its neighbours, everyday stories, and the pipeline's inputs."""

import random
from pathlib import Path

from jaxforget.demo.layouts import evaluation_files
from jaxforget.demo.lexicon import FAMILIES, POOLS, Universe, invent_words, make_anchors, make_universe
from jaxforget.demo.probes import make_probes, make_prompts
from jaxforget.demo.stories import everyday_setting, tell, universe_setting
from jaxforget.demo.tokenizer import save_tokenizer, train_tokenizer
from jaxforget.files import atomic_folder, write_json, write_text

UNIVERSES = 12
WORDS_PER_UNIVERSE = 40
STORIES_PER_UNIVERSE = 120
EVERYDAY_STORIES = 320
UNREAD_STORIES = 80  # about the target's universe, read by no model
HELDOUT_STORIES = 28  # everyday ones; as many more come from the other universes
STORIES_PER_FILE = 10
VOCABULARY = 2048
# Repetitions of each invented word and everyday answer in the tokenizer's text, so that each becomes one token and each
# fact one prediction.
TERM_WEIGHT = 200


def make_universes(seed: int) -> list[Universe]:
    """Return the universes of a seed, the target first; no two share a word."""
    rng = _draws(seed, "universes")
    words = invent_words(rng, UNIVERSES * WORDS_PER_UNIVERSE)
    return [make_universe(rng, words) for _ in range(UNIVERSES)]


def build_world(folder: str | Path, *, seed: int) -> None:
    """Write the world of `seed` into `folder`, completely or not at all; the same seed gives the same bytes.

    text/ is the training text (text/target to forget, text/retain the rest), heldout/ further text of the retained
    kind, unread/ further text about the target. choices/, muse/ and tofu/ hold questions about both in published
    layouts. anchors.json, probes.json, prompts.json, truth.json and tokenizer/ are the pipeline's other inputs.
    """
    folder = Path(folder)
    universes = make_universes(seed)
    target, *others = universes
    training, heldout = training_text(universes, seed), _heldout_text(others, seed)
    truth = {
        "seed": seed,
        "target_terms": target.all_terms(),
        "target_text": str(folder / "text/target"),
        "retain_text": str(folder / "text/retain"),
    }
    terms = [term for universe in universes for term, _ in universe.terms]
    common = [word for pool in (*POOLS.values(), FAMILIES) for word in pool]
    names = [f" {term}" * TERM_WEIGHT for term in (*terms, *common)]
    tokenizer = train_tokenizer([*training.values(), *heldout.values(), *names], VOCABULARY)
    unread = _unread_text(target, seed)
    told = {
        "forget": _stories(training, "text/target/"),
        "retain": _stories(training, "text/retain/universe"),
        "holdout": _stories(unread, "unread/"),
    }
    asked = evaluation_files(target, others, told, _draws(seed, "evaluations"))
    with atomic_folder(folder) as partial:
        for name, text in (training | heldout | unread | asked).items():
            write_text(partial / name, text)
        write_json(partial / "anchors.json", make_anchors(target, _draws(seed, "anchors")))
        write_json(partial / "probes.json", make_probes(target, others, _draws(seed, "probes")))
        write_json(partial / "prompts.json", make_prompts(target, others))
        write_json(partial / "truth.json", truth)
        save_tokenizer(tokenizer, partial / "tokenizer")


def _draws(seed: int, part: str) -> random.Random:
    # A string seeds by its digest: equal on every machine, and the draws of one part do not affect another's.
    return random.Random(f"toy world {seed}: {part}")


def training_text(universes: list[Universe], seed: int) -> dict[str, str]:
    """Return file name -> text of text/target/ and text/retain/."""
    files = {}
    for number, universe in enumerate(universes):
        stem = f"text/retain/universe_{number:02}" if number else "text/target/stories"
        rng, setting = _draws(seed, stem.removeprefix("text/")), universe_setting(universe)
        files |= _files(stem, [tell(setting, rng) for _ in range(STORIES_PER_UNIVERSE)])
    rng = _draws(seed, "everyday")
    return files | _files("text/retain/everyday", [tell(everyday_setting(rng), rng) for _ in range(EVERYDAY_STORIES)])


def _heldout_text(others: list[Universe], seed: int) -> dict[str, str]:
    """Return file name -> text of heldout/: half about the other universes, half everyday."""
    rng = _draws(seed, "heldout")
    known = [tell(universe_setting(rng.choice(others)), rng) for _ in range(HELDOUT_STORIES)]
    everyday = [tell(everyday_setting(rng), rng) for _ in range(HELDOUT_STORIES)]
    return _files("heldout/universes", known) | _files("heldout/everyday", everyday)


def _unread_text(target: Universe, seed: int) -> dict[str, str]:
    """Return file name -> text of unread/: stories about the target's universe that no model reads."""
    rng, setting = _draws(seed, "unread"), universe_setting(target)
    return _files("unread/stories", [tell(setting, rng) for _ in range(UNREAD_STORIES)])


def _stories(files: dict[str, str], stem: str) -> list[str]:
    """Return the stories of the files whose names begin with `stem`."""
    return [story for name, text in files.items() if name.startswith(stem) for story in text.strip().split("\n\n")]


def _files(stem: str, stories: list[str]) -> dict[str, str]:
    """Return file name -> stories joined by blank lines, `STORIES_PER_FILE` in a file."""
    groups = [stories[start : start + STORIES_PER_FILE] for start in range(0, len(stories), STORIES_PER_FILE)]
    return {f"{stem}_{number:02}.txt": "\n".join(group) for number, group in enumerate(groups, 1)}
