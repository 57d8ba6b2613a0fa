"""A tokenizer of a few pieces, and a model whose logits can be looked at whole."""

import numpy as np

from jaxforget.lm.scoring import Scorer
from tests.train.tiny import TILE, mesh_of, put, softmax, toy_forward, toy_params

PIECES = ("<s>", "a", "b", " b", "ab", "abc", "c", " ", "d", " cd", "bd")


class Pieces:
    """Longest piece first, as merges would have it; `<s>` before every text unless told otherwise."""

    bos_token_id, eos_token_id = 0, None

    def __init__(self, bos: bool = True):
        self._bos = bos

    def __call__(self, text: str | list[str], add_special_tokens: bool = True) -> dict[str, list]:
        if isinstance(text, list):
            return {"input_ids": [self(one, add_special_tokens)["input_ids"] for one in text]}
        ids = [0] if self._bos and add_special_tokens else []
        while text:
            found = max((p for p in PIECES if text.startswith(p)), key=len)
            ids.append(PIECES.index(found))
            text = text[len(found) :]
        return {"input_ids": ids}

    def convert_ids_to_tokens(self, number: int) -> str:
        return PIECES[number] if number < len(PIECES) else f"word {number}"


PARAMS = toy_params(1)


def scorer(fsdp: int = 8, batch: int = 5) -> Scorer:
    """Return a scorer of the toy model on several devices; its batch of five rows is padded to eight."""
    return Scorer(toy_forward(), mesh_of(fsdp=fsdp), batch=batch, tile=TILE)


def placed(fsdp: int = 8):
    """The toy's weights where `scorer` runs."""
    return put(PARAMS, mesh_of(fsdp=fsdp))


def whole_logp(row) -> np.ndarray:
    """Log-probabilities [n, V] after every token of one row, from whole logits: `toy_forward` in numpy."""
    x = PARAMS["embed"][list(row)]
    mean = np.cumsum(x, axis=0) / np.arange(1, len(row) + 1)[:, None]
    return np.log(softmax(np.tanh(x + mean @ PARAMS["mix"]) @ PARAMS["lm_head"]))
