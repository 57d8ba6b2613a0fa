"""Several translations of a block, for targets that are averaged over them (arXiv 2407.16997; method `whp_average`).

Every translation replaces the same occurrences, so original positions train in all of them or in none. A position that
predicts a repeated anchor trains too: base expects the counterpart there, and its probability moves to the anchor.
"""

import dataclasses
from typing import Any

import numpy as np

from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.translate import Choice, Rule, Translator

# Columns of a prepared block, flattened, and of a batch: int32 [N, S'], [N, S], [N, K], [K], [K].
COLUMNS = ("translations", "position_maps", "moved_from", "moved_to", "moved_since")
FILLS = dict(zip(COLUMNS, (0, -1, -1, -1, -1), strict=True))
_STREAM = 3  # keeps these draws apart from those of the single translation and of the held-out blocks


@dataclasses.dataclass(frozen=True)
class Translations:
    """N translations of a block of n tokens; every array is int32.

    Probability moves between first tokens only, because no position inside an anchor trains. It moves from the last
    token of the anchor's first occurrence on: before that, base has not read the counterpart. An entry of `moved_from`
    is -1 where nothing moves: the counterpart begins as the anchor does, or its first token is ambiguous in the
    translated block, where it also stands as ordinary text or begins the counterpart of an earlier anchor.

    Attributes:
      translations: [N, m] token ids that base reads, padded on the right with 0.
      position_maps: [N, n] index in each translation whose states predict what follows token i; -1 = not trained.
      moved_from: [N, k] first token of an anchor's counterpart in each translation, for each spelling of the anchor.
      moved_to: [k] first token of the anchor, to which the probability moves.
      moved_since: [k] original position from which on it moves.
    """

    translations: np.ndarray
    position_maps: np.ndarray
    moved_from: np.ndarray
    moved_to: np.ndarray
    moved_since: np.ndarray

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns of a prepared block, each of one axis."""
        return {name: getattr(self, name).reshape(-1) for name in COLUMNS}


def widened(anchors: Anchors, count: int) -> Anchors:
    """Return the dictionary with up to `count` translations of each anchor: its own first, then those of others.

    An anchor takes translations of anchors of the same kind ("kind" in the dictionary), number of words and case. An
    anchor without a kind has only its own.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for key, generic in anchors.entries.items():
        groups.setdefault(_group(anchors, key), []).extend(generic)
    entries = {}
    for number, (key, own) in enumerate(anchors.entries.items()):
        group = _group(anchors, key)
        others = groups[group] if group[0] is not None else []
        start = number % max(len(others), 1)  # anchors of one kind begin at different places of their common list
        others = [text for text in others[start:] + others[:start] if text not in anchors.entries]
        entries[key] = tuple(dict.fromkeys([*own, *others]))[: max(count, len(own))]
    return dataclasses.replace(anchors, entries=entries)


def _group(anchors: Anchors, key: str) -> tuple[Any, ...]:
    return anchors.evidence.get(key, {}).get("kind"), len(key.split()), key[:1].isupper()


class Sampler:
    """Draws translations of blocks.

    Args:
      anchors: the dictionary.
      tokenizer: a transformers tokenizer.
      count: translations of a block, N.
      match: as for `Translator`.
    """

    def __init__(self, anchors: Anchors, tokenizer: Any, count: int, *, match: str = "first"):
        self.count = count
        self.translator = Translator(widened(anchors, count), tokenizer, match=match, draw="per_key")
        self._written: dict[int, list[Rule]] = {}
        for rule in self.translator.rules:
            if rule.form_of is None:
                self._written.setdefault(rule.key, []).append(rule)

    def sample(self, tokens: np.ndarray, seed: int, block: int) -> Translations:
        """Return N translations of one block, which depend on no other block.

        An anchor has one counterpart in a translation, and other ones in the next translations as long as there are
        any. No two anchors of a translation share one where the dictionary has others.

        Args:
          tokens: [n] token ids.
          seed: of the draws.
          block: number of the block.
        """
        rng = np.random.default_rng((seed, block, _STREAM))
        rules = self.translator.rules
        array = np.asarray(tokens, np.int64)
        found = self.translator.find(array)
        first = {}  # key -> last position of its first occurrence
        ordinary = np.ones(len(array), bool)
        for start, number in found:
            end = start + len(rules[number].tokens)
            first.setdefault(rules[number].key, end - 1)
            ordinary[start:end] = False
        plain = set(array[ordinary].tolist())
        orders = {key: rng.permutation(_values(self._written[key])).tolist() for key in first}
        moves = [(key, rule) for key in first for rule in self._written[key]]
        texts, maps, sources = [], [], []
        for n in range(self.count):
            drawn = self._draw(orders, plain, n)
            chosen = [_choice(rules[number], drawn[rules[number].key]) for _, number in found]
            made = self.translator.replace(array.tolist(), found, chosen, repeats=True)
            texts.append(made.translated)
            maps.append(made.position_map)
            sources.append(_sources(moves, drawn, plain))
        width = max(map(len, texts))
        return Translations(
            np.stack([np.pad(text, (0, width - len(text))) for text in texts]),
            np.stack(maps),
            np.array(sources, np.int32).reshape(self.count, len(moves)),
            np.array([rule.tokens[0] for _, rule in moves], np.int32),
            np.array([first[key] for key, _ in moves], np.int32),
        )

    def _draw(self, orders: dict[int, list[int]], plain: set[int], n: int) -> dict[int, int]:
        """Return key -> the number of its counterpart in translation `n`."""
        taken, drawn = set(plain), {}
        for key, order in orders.items():
            turned = order[n % len(order) :] + order[: n % len(order)]
            firsts = {value: _first_ids(self._written[key], value) for value in turned}
            drawn[key] = next((value for value in turned if not firsts[value] & taken), turned[0])
            taken |= firsts[drawn[key]]
        return drawn


def _values(rules: list[Rule]) -> list[int]:
    """Return the numbers of the counterparts that the tokenizer can express in some spelling."""
    return sorted({choice.value for rule in rules for choice in rule.choices})


def _first_ids(rules: list[Rule], value: int) -> set[int]:
    return {choice.tokens[0] for rule in rules for choice in rule.choices if choice.value == value}


def _choice(rule: Rule, value: int) -> Choice:
    """Return the counterpart `value` of a rule; another one where the tokenizer cannot express it in this spelling."""
    return next((choice for choice in rule.choices if choice.value == value), rule.choices[value % len(rule.choices)])


def _sources(moves: list[tuple[int, Rule]], drawn: dict[int, int], plain: set[int]) -> list[int]:
    """Return the token that each move takes probability from; -1 where nothing moves."""
    owner: dict[int, int] = {}  # first token of a counterpart -> the earliest anchor that it begins one of
    found = []
    for key, rule in moves:
        source = _choice(rule, drawn[key]).tokens[0]
        mine = owner.setdefault(source, key) == key
        found.append(source if mine and source not in plain and source != rule.tokens[0] else -1)
    return found
