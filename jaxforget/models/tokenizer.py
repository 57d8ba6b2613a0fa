"""The tokenizer of a model's folder: found, read, and compared with the model's vocabulary."""

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError
from jaxforget.files import refuse_lfs_pointer
from jaxforget.models.config import ModelConfig

FILES = ("tokenizer.json", "tokenizer.model")


def find_tokenizer(folder: str | Path) -> None:
    """Check that `folder` holds a tokenizer that can be read here; quick, because nothing is loaded.

    Raises:
      UserError: it holds none, a Git LFS pointer, or one that needs a package that is not installed.
    """
    folder = Path(folder)
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        raise UserError(f"{folder}: no tokenizer.json or tokenizer.model; copy the model's tokenizer files there")
    for path in found:
        refuse_lfs_pointer(path)
    if found[0].name == "tokenizer.model" and importlib.util.find_spec("sentencepiece") is None:
        raise UserError(
            f"{found[0]}: reading it needs the package sentencepiece; `pip install sentencepiece`, or save the "
            "tokenizer as tokenizer.json"
        )


def load_tokenizer(folder: str | Path) -> Any:
    """Return the `transformers` tokenizer in the local `folder`; runs no code from it and uses no network.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    find_tokenizer(folder)
    from transformers import AutoTokenizer  # importing takes seconds, and most commands fail before they need it

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    # Every broken tokenizer file raises another error of another library.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: its tokenizer cannot be read ({reason}); download its files again") from None


def fit_tokenizer(tokenizer: Any, config: ModelConfig) -> None:
    """Check that the tokenizer belongs to the model, and take a padding token without an embedding from it.

    Several published models name a padding token one beyond the embedding, which no text gives. Added tokens may
    therefore lie there; `check_ids` refuses a text that gives one.

    Args:
      tokenizer: changed in place: without that padding token, padding is done with the end token.
      config: shape of the model.

    Raises:
      UserError: an ordinary token has an id without a row in the embedding.
    """
    added = tokenizer.get_added_vocab()
    ordinary = ((index, token) for token, index in tokenizer.get_vocab().items() if token not in added)
    highest, token = max(ordinary, default=(-1, ""))
    if highest >= config.vocab_size:
        raise UserError(
            f"tokenizer of {tokenizer.name_or_path or 'the model'}: id {highest} ({token!r}) is "
            f"beyond the model's vocab_size {config.vocab_size}; take the model's own tokenizer"
        )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= config.vocab_size:
        tokenizer.pad_token = None


def check_ids(texts: Iterable[Sequence[int]], vocab_size: int) -> None:
    """Check that the model has an embedding for every token id of texts; a gather beyond the table would give NaN.

    Raises:
      UserError: it has none for one of them.
    """
    for ids in texts:
        if len(ids) and max(ids) >= vocab_size:
            raise UserError(
                f"a text gives the token id {max(ids)}, beyond the model's vocabulary of {vocab_size}; remove that "
                "added token (such as a padding token) from the text"
            )
