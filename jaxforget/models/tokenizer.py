"""The tokenizer of a model's folder, and whether it fits the model."""

from pathlib import Path
from typing import Any

from jaxforget.errors import UserError
from jaxforget.models.config import ModelConfig


def load_tokenizer(folder: str | Path) -> Any:
    """The `transformers` tokenizer in the local `folder`. Runs no code from it and asks no network.

    Raises:
      UserError: there is none, or it cannot be read.
    """
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise UserError(f"{folder}: no tokenizer.json or tokenizer.model; copy the model's tokenizer files there")
    from transformers import AutoTokenizer  # seconds to import, and most commands fail before they need it

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    # Every broken tokenizer file breaks in its own way, in other libraries: name the folder, pass it on.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: its tokenizer cannot be read ({reason}); download its files again") from None


def check_tokenizer(tokenizer: Any, config: ModelConfig) -> None:
    """Raises `UserError` unless every id that `tokenizer` can give has a row in the embedding."""
    highest, token = max((index, token) for token, index in tokenizer.get_vocab().items())
    if highest >= config.vocab_size:
        raise UserError(
            f"tokenizer of {tokenizer.name_or_path or 'the model'}: id {highest} ({token!r}) is "
            f"beyond the model's vocab_size {config.vocab_size}; take the model's own tokenizer"
        )
