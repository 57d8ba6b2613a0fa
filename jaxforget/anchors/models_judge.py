"""Evidence of the two models for anchors: what reinforcing raised, and which counterparts base finds fitting."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxforget.anchors.candidates import Gains
from jaxforget.anchors.contexts import Context
from jaxforget.anchors.scan import WORD
from jaxforget.corpus.text import Document
from jaxforget.corpus.variants import encode
from jaxforget.lm.forward import make_forward
from jaxforget.lm.model import Model
from jaxforget.lm.scoring import Scorer
from jaxforget.train.types import Params

AROUND = 160  # characters of a sentence kept on each side of an expression
READ = 3  # of an expression's sentences that base reads with another expression in its place


@dataclasses.dataclass(frozen=True)
class Passage:
    """A piece of the text as base's tokens.

    Attributes:
      text: the text that the ranges index.
      ids: token ids; the first may be BOS.
      ranges: character range in `text` of every id except a BOS.
    """

    text: str
    ids: tuple[int, ...]
    ranges: tuple[tuple[int, int], ...]


class ModelsJudge:
    """Evidence of base and the reinforced model for words of the text and for counterparts.

    The constructor scores every passage of a sample of the text once with each model. `gains` tells which words
    reinforcing raised. `familiar` and `likelihoods` rank counterparts by base alone; `likelihoods` runs it again.

    Args:
      base: the base model.
      reinforced: parameters of the reinforced model, for base's module.
      documents: the text.
      batch: rows of a forward pass.
      tile: tokens whose logits are held at a time.
      length: tokens of a passage; a length above the model's number of positions is reduced to that number.
      sample: approximate number of tokens of the text that are scored.
    """

    def __init__(
        self,
        base: Model,
        reinforced: Params,
        documents: Iterable[Document],
        *,
        batch: int,
        tile: int,
        length: int,
        sample: int,
    ):
        self._base = base
        self._scorer = Scorer(make_forward(base.module), base.mesh, batch=batch, tile=tile)
        length = min(length, base.config.max_position_embeddings)
        passages = sample_evenly(list(_passages(documents, base.tokenizer, length)), sample)
        rows = [passage.ids for passage in passages]
        after = self._scorer.log_probabilities(reinforced, rows)
        before = self._scorer.log_probabilities(base.params, rows)
        self._gains = word_gains(passages, before, after)
        self._familiar: dict[tuple[tuple[str, ...], int], list[str]] = {}
        self._alone: dict[str, float] = {}

    def gains(self) -> Gains:
        """Return how much the reinforced model raises the text's words over base."""
        return self._gains

    def familiar(self, options: Sequence[str], count: int) -> list[str]:
        """Return the `count` options that base's tokenizer splits into the fewest tokens."""
        key = (tuple(options), count)
        if key not in self._familiar:
            sizes = dict(zip(options, map(len, encode(self._base.tokenizer, ["a " + o for o in options])), strict=True))
            self._familiar[key] = sorted(options, key=lambda option: sizes[option])[:count]
        return self._familiar[key]

    def likelihoods(self, contexts: Sequence[Context], options: Sequence[str]) -> list[float]:
        """Return how well each option fits in the place of an expression, one float per option, in nats.

        The value is the mean, over the first `READ` contexts, of log p(text with the option) - log p(option). p is
        base's probability. The text is the context, cut to `AROUND` characters on either side of the expression.

        Args:
          contexts: sentences with the expression's place in them; not empty.
          options: texts that may replace the expression.
        """
        contexts = contexts[:READ]
        texts = [
            one.sentence[max(0, one.start - AROUND) : one.start] + option + one.sentence[one.end : one.end + AROUND]
            for option in options
            for one in contexts
        ]
        new = [option for option in options if option not in self._alone]
        scores = self._totals([*texts, *new])
        self._alone |= dict(zip(new, scores[len(texts) :].tolist(), strict=True))
        means = scores[: len(texts)].reshape(len(options), len(contexts)).mean(axis=1)
        return [float(mean - self._alone[option]) for mean, option in zip(means, options, strict=True)]

    def _totals(self, texts: Sequence[str]) -> np.ndarray:
        """Return the log-probability of each text after BOS (or after its first token without BOS), fp64 [texts]."""
        bos = _bos(self._base)
        rows = [[*bos, *ids] for ids in encode(self._base.tokenizer, texts)]
        scores = self._scorer.log_probabilities(self._base.params, rows)
        return np.array([row.sum(dtype=np.float64) for row in scores])


def word_gains(passages: Sequence[Passage], before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Gains:
    """Return the mean rise of each word's log-probability.

    Args:
      passages: the text.
      before, after: base's and the reinforced model's log P(token i + 1 | tokens 0..i), fp32 [n - 1] a passage.
    """
    sums: dict[str, list[float]] = {}
    total, count = 0.0, 0
    for passage, low, high in zip(passages, before, after, strict=True):
        skipped = len(passage.ids) - len(passage.ranges)
        # Scores begin with the second id, so the first token has none without a BOS.
        rise = (high.astype(np.float64) - low)[max(0, skipped - 1) :]
        ranges = passage.ranges[1 - skipped :] if skipped < 1 else passage.ranges
        if not len(ranges):
            continue
        starts, ends = np.array(ranges).T
        for match in WORD.finditer(passage.text, int(starts[0]), int(ends[-1])):
            word = match.group()
            if (
                passage.text[match.start() - 1 : match.start()].isalpha()
                or passage.text[match.end() : match.end() + 1].isalpha()
            ):
                continue  # the passage begins or ends inside this word
            word = word[:-2] if word.endswith(("'s", "’s")) else word
            # Tokens that overlap the word: a leading space is part of its first token.
            first = int(np.searchsorted(ends, match.start(), side="right"))
            last = int(np.searchsorted(starts, match.start() + len(word), side="left"))
            if last <= first:
                continue
            gain = float(rise[first:last].sum())
            entry = sums.setdefault(word, [0.0, 0])
            entry[0] += gain
            entry[1] += 1
            total += gain
            count += 1
    return Gains(total / max(count, 1), {word: (gain / times, int(times)) for word, (gain, times) in sums.items()})


def sample_evenly(passages: Sequence[Passage], tokens: int) -> list[Passage]:
    """Return evenly spread passages of about `tokens` tokens in total."""
    everything = sum(len(passage.ids) for passage in passages)
    if everything <= tokens or not passages:
        return list(passages)
    count = max(1, round(len(passages) * tokens / everything))
    return [passages[int(place)] for place in np.linspace(0, len(passages) - 1, count)]


def _passages(read: Iterable[Document], tokenizer: Any, length: int) -> Iterator[Passage]:
    """Yield the text as passages of at most `length` ids, each after BOS if the tokenizer has one."""
    bos = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    room = length - len(bos)
    for document in read:
        # In windows, since a tokenizer needs some hundred bytes of memory per character.
        for begin in range(0, len(document.text), 500_000):
            text = document.text[begin : begin + 500_000]
            encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
            ids, ranges = encoded["input_ids"], encoded["offset_mapping"]
            for first in range(0, len(ids), room):
                part = slice(first, first + room)
                yield Passage(text, (*bos, *ids[part]), tuple(map(tuple, ranges[part])))


def _bos(model: Model) -> list[int]:
    bos = model.tokenizer.bos_token_id
    return [] if bos is None else [bos]
