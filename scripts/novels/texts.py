"""The texts that the models of scripts/novel read: excerpts of novels, and the model's own answers as general text."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from omegaconf import OmegaConf

import jaxforget
from jaxforget.errors import UserError
from jaxforget.files import atomic_folder, read_json, write_text
from novels.books import read_chapters, split_tokens

WHOLE = 10**9  # tokens; more than any book has


@dataclasses.dataclass(frozen=True)
class Texts:
    """Settings of texts.yaml; see the comments there."""

    target: str
    retain: str
    heldout: str
    tokens: int
    unread: int
    heldout_tokens: int
    replay_tokens: int
    seed: int


def load_texts(path: Path, *, full: bool) -> Texts:
    """Read texts.yaml; with `full`, target and retain are whole books.

    Raises:
      UserError: a setting is missing or unknown.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; --configs names a folder like configs/novel")
    try:
        texts = Texts(**OmegaConf.to_container(OmegaConf.load(path)))
    except TypeError as error:
        names = ", ".join(field.name for field in dataclasses.fields(Texts))
        raise UserError(f"{path}: {error}; its settings are {names}") from None
    return dataclasses.replace(texts, tokens=WHOLE) if full else texts


def write_excerpts(texts: Texts, novels: Path, folder: Path, count: Callable[[str], int]) -> None:
    """Write the excerpts: `folder`/target, retain, unread and heldout, with one file each.

    A whole target (--full) leaves no unread chapters: its last tokens are then kept apart and no model reads them.

    Args:
      texts: what to take from which novel.
      novels: folder of the novels, NAME.txt.
      folder: written whole or not at all.
      count: returns the number of tokens of a text.
    """
    whole = {name: "\n\n".join(read_chapters(novels / f"{name}.txt")) for name in (texts.target, texts.retain)}
    target, rest = split_tokens(
        whole[texts.target], min(texts.tokens, count(whole[texts.target]) - texts.unread), count
    )
    unread, _ = split_tokens(rest, texts.unread, count)
    heldout = "\n\n".join(read_chapters(novels / f"{texts.heldout}.txt"))
    parts = {
        "target": (texts.target, target),
        "retain": (texts.retain, split_tokens(whole[texts.retain], texts.tokens, count)[0]),
        "unread": (texts.target, unread),
        "heldout": (texts.heldout, split_tokens(heldout, texts.heldout_tokens, count)[0]),
    }
    with atomic_folder(folder) as partial:
        for part, (name, text) in parts.items():
            if not text:
                raise UserError(f"{novels / name}.txt: too short for {texts.unread} unread tokens; give a longer text")
            (partial / part).mkdir()
            write_text(partial / part / f"{name}.txt", text)


def write_replay(texts: Texts, model: Path, questions: Path, path: Path) -> None:
    """Write the model's own answers to general questions, drawn at temperature 1.

    Text that a model wrote itself pulls it nowhere when it trains on it, so it holds the model where it was while it
    learns the novels.
    """
    loaded = jaxforget.load(model)
    prompts = [chat_prompt(question) for question in read_json(questions)]
    answers = jaxforget.complete(loaded, prompts, new_tokens=texts.replay_tokens, temperature=1.0, seed=texts.seed)
    ending = "<|im_end|>\n"
    write_text(path, "".join(f"{prompt}{answer}{ending}" for prompt, answer in zip(prompts, answers, strict=True)))


def chat_prompt(question: str) -> str:
    """Return a question in the model's chat format."""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"


def write_training(folder: Path, excerpts: Path, replay: Path) -> None:
    """Write what base (both novels) and control (the novel to keep) train on, each beside the replayed answers."""
    with atomic_folder(folder) as partial:
        for model, parts in {"base": ("target", "retain"), "control": ("retain",)}.items():
            (partial / model).mkdir()
            write_text(partial / model / "general.txt", replay.read_text(encoding="utf-8"))
            for file in (file for part in parts for file in sorted((excerpts / part).glob("*.txt"))):
                write_text(partial / model / file.name, file.read_text(encoding="utf-8"))
