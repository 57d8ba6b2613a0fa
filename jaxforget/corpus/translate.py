"""Translation of original tokens, the position map, and the tokens to suppress (METHOD.md §3 and §4)."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.variants import VARIANT_NAMES, derive_variants
from jaxforget.errors import UserError

_HERE = None  # key of a trie's node for the rule that ends there; the other keys are the next tokens
# Gaps that real text has inside a name: line ends with and without blanks, two spaces, no-break spaces, a tab.
GAPS = ("\n", "  ", "\u00a0", " \n", "\n ", "\n    ", "\u202f", "\t")
MATCH = ("first", "longest")
DRAW = ("per_variant", "per_key")
# Modes of `translate`: "paper" does what the authors' script does; "longest" prefers the longer of two anchors and
# gives an anchor one translation in a whole block.
MODES = {"paper": ("first", "per_variant"), "longest": ("longest", "per_key")}


@dataclasses.dataclass(frozen=True)
class Translation:
    """A translated block of n original and m translated tokens; every array is int32.

    Attributes:
      translated: [m] token ids that base reads.
      position_map: [n] index in `translated` whose logits predict what follows token i; -1 = not trained.
      suppress_ids: [k] token ids, each once, whose base logit is replaced by the row's mean ...
      suppress_from: [k] ... at every translated position p > this index.
      spans: [a, 3] first original index, length, and index of the key in the dictionary, for each occurrence.
    """

    translated: np.ndarray
    position_map: np.ndarray
    suppress_ids: np.ndarray
    suppress_from: np.ndarray
    spans: np.ndarray


@dataclasses.dataclass(frozen=True)
class Choice:
    """One translation of a key in one tokenisation variant.

    Attributes:
      tokens: token ids that replace the key.
      first_ids: first token id of every variant of this translation; they are suppressed after it.
      value: index of the translation among those of the key.
    """

    tokens: tuple[int, ...]
    first_ids: tuple[int, ...]
    value: int = 0


@dataclasses.dataclass(frozen=True)
class Rule:
    """A key in one tokenisation variant.

    Attributes:
      key: index of the key in the dictionary; all rules of a key share it.
      tokens: token ids to match.
      choices: possible translations.
      form_of: None for the key as it is written. For a form with another gap between its words (a line end, two
        spaces) the number of the rule as written, whose draw this rule shares.
    """

    key: int
    tokens: tuple[int, ...]
    choices: tuple[Choice, ...]
    form_of: int | None = None


def derive_rules(
    entries: Mapping[str, Sequence[str]], tokenizer: Any, *, gaps: bool = True
) -> tuple[list[Rule], list[str]]:
    """Return the rules of a dictionary in matching order, and notes on texts that `tokenizer` cannot express.

    The order is that of the dictionary. A key's variant after a space comes first, then the one after a newline, then
    its forms with other gaps. The paper does not specify the order of the variants; it matters only if variants of two
    keys have the same beginning.

    Args:
      entries: key -> its translations.
      tokenizer: a transformers tokenizer.
      gaps: also derive the forms in which a line end or another gap of `GAPS` separates the words of a key.
    """
    forms = {key: other_gaps(key) if gaps else [] for key in entries}
    ids = derive_variants(
        tokenizer, [text for key, generic in entries.items() for text in (key, *generic, *forms[key])]
    )
    rules, notes = [], []
    for index, (key, generic) in enumerate(entries.items()):
        seen: set[tuple[int, ...]] = set()
        written: dict[int, int] = {}  # variant -> number of its rule
        for variant, name in enumerate(VARIANT_NAMES):
            tokens = ids[key][variant]
            choices = []
            for number, value in enumerate(generic):
                if ids[value][variant] is None:
                    notes.append(f"{key!r}: {value!r} has no token ids {name} that decode back; not drawn there")
                    continue
                firsts = tuple(dict.fromkeys(form[0] for form in ids[value] if form is not None))
                choices.append(Choice(ids[value][variant], firsts, number))
            if tokens is None:
                notes.append(f"{key!r}: has no token ids {name} that decode back; not matched there")
            elif choices and tokens not in seen:  # a tokenizer without spaces gives both variants the same ids
                seen.add(tokens)
                written[variant] = len(rules)
                rules.append(Rule(index, tokens, tuple(choices)))
        for form in forms[key]:
            for variant, number in written.items():
                tokens = ids[form][variant]
                if tokens is not None and tokens not in seen:
                    seen.add(tokens)
                    rules.append(Rule(index, tokens, rules[number].choices, number))
    return rules, notes


def other_gaps(key: str) -> list[str]:
    """Return the forms of a key of several words in which one gap, or all of them, is replaced by one of `GAPS`."""
    words = key.split()
    if len(words) < 2:
        return []
    own = re.findall(r"\s+", key.strip())
    forms = [" ".join(words)]
    for gap in GAPS:
        changed = [[*own[:at], gap, *own[at + 1 :]] for at in range(len(own))] + [[gap] * len(own)]
        forms += ["".join(map("".join, zip(words, [*gaps, ""], strict=True))) for gaps in changed]
    return [form for form in dict.fromkeys(forms) if form != key]


class Translator:
    """A compiled dictionary that translates blocks; it is read-only, so threads may share it."""

    def __init__(self, anchors: Anchors, tokenizer: Any, *, match: str = "first", draw: str = "per_variant"):
        """
        Args:
          anchors: the dictionary.
          tokenizer: a transformers tokenizer.
          match: choice among the keys that match at a token: "first" takes the first in dictionary order (paper),
            "longest" the one of most tokens (the first of equals).
          draw: "per_variant" draws a translation for each tokenisation variant of a key (paper), "per_key" one for
            the key.

        Raises:
          UserError: an option is unknown, or the tokenizer can express no key.
        """
        rules, notes = derive_rules(anchors.entries, tokenizer)
        if not rules:
            raise UserError(
                f"anchors: the tokenizer can express none of {len(anchors.entries)} keys; give a dictionary in the "
                "model's language"
            )
        self.keys: tuple[str, ...] = tuple(anchors.entries)
        self.notes: tuple[str, ...] = tuple(notes)
        self._compile(rules, match, draw)

    def _compile(self, rules: list[Rule], match: str, draw: str) -> None:
        _check_option("match", match, MATCH)
        _check_option("draw", draw, DRAW)
        self.rules = rules
        self.longest = match == "longest"
        # In a trie the cost of a match is the length of a key, regardless of how many keys have the same beginning.
        self._trie: dict[int | None, Any] = {}
        for number, rule in enumerate(rules):
            node = self._trie
            for token in rule.tokens:
                node = node.setdefault(token, {})
            node.setdefault(_HERE, number)
        self._lengths = [len(rule.tokens) for rule in rules]
        size = 2 + max(rule.tokens[0] for rule in rules)
        self._is_single = np.zeros(size, bool)  # the last element represents all larger token ids
        self._is_single[[rule.tokens[0] for rule in rules if len(rule.tokens) == 1]] = True
        self._is_first = np.zeros(size, bool)
        self._is_first[[rule.tokens[0] for rule in rules]] = True
        pairs = {rule.tokens[:2] for rule in rules if len(rule.tokens) >= 2}
        self._pair_codes = np.array(sorted(first << 32 | second for first, second in pairs), np.int64)
        counts = np.array([len(rule.choices) for rule in rules])
        self._counts = counts
        # Forms with other gaps share the draw of their key as written, so that they do not change the other draws.
        own = np.cumsum([rule.form_of is None for rule in rules]) - 1
        drawn = [own[number if rule.form_of is None else rule.form_of] for number, rule in enumerate(rules)]
        self._slots = np.array([rule.key for rule in rules] if draw == "per_key" else drawn)
        self._draws = int(self._slots.max()) + 1 if (counts > 1).any() else 0

    @property
    def first_tokens(self) -> tuple[int, ...]:
        """Ids of the first tokens of all keys, in every spelling, ascending."""
        return tuple(sorted({int(rule.tokens[0]) for rule in self.rules}))

    def translate(self, tokens: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Translation:
        """Return the translation of one block, which does not depend on any other block.

        Args:
          tokens: [n] token ids of the block.
          rng: draws the translations; the same state of the generator gives the same translation.
        """
        array = np.asarray(tokens, np.int64)  # [n]
        found = self.find(array)
        picks = None
        if self._draws:
            picks = (rng.random(self._draws)[self._slots] * self._counts).astype(np.int64).tolist()  # [rules]
        chosen = [self.rules[number].choices[0 if picks is None else picks[number]] for _, number in found]
        return self.replace(array.tolist(), found, chosen)

    def replace(
        self, original: list[int], found: Sequence[tuple[int, int]], chosen: Sequence[Choice], *, repeats: bool = False
    ) -> Translation:
        """Return the translation of a block with the given translation of each occurrence.

        Args:
          original: [n] token ids of the block.
          found: its occurrences, by `find`.
          chosen: the translation of each of them.
          repeats: also train the positions that predict a repeated anchor.
        """
        translated: list[int] = []
        position_map: list[int] = []
        suppress: dict[int, int] = {}
        met: set[int] = set()
        spans = []
        end = 0  # number of original tokens done so far
        for (start, number), choice in zip(found, chosen, strict=True):
            rule = self.rules[number]
            position_map.extend(range(len(translated), len(translated) + start - end))
            translated += original[end:start]
            if rule.key in met and not repeats:
                position_map[start - 1] = -1  # start > 0: this is a repeat
            met.add(rule.key)
            for token in choice.first_ids:
                suppress.setdefault(token, len(translated))
            translated += choice.tokens
            size = len(rule.tokens)
            if size > 1:
                position_map += [-1] * (size - 1)
            position_map.append(len(translated) - 1)
            spans.append((start, size, rule.key))
            end = start + size
        position_map.extend(range(len(translated), len(translated) + len(original) - end))
        translated += original[end:]
        return Translation(
            np.array(translated, np.int32),
            np.array(position_map, np.int32),
            np.array(list(suppress), np.int32),
            np.array(list(suppress.values()), np.int32),
            np.array(spans, np.int32).reshape(-1, 3),
        )

    def matches(self, tokens: Sequence[int] | np.ndarray) -> list[int]:
        """Return the keys that match in a text of token ids [n], in order, as indices in `keys`."""
        return [self.rules[number].key for _, number in self.find(np.asarray(tokens, np.int64))]

    def find(self, array: np.ndarray) -> list[tuple[int, int]]:
        """Return the disjoint occurrences in token ids int64 [n] as (first index, rule), from left to right.

        numpy selects the candidates by their first two tokens; the trie decides.
        """
        clipped = np.minimum(array, len(self._is_first) - 1)
        places = np.flatnonzero(self._is_first[clipped])
        if not len(places):
            return []
        following = np.append(array[1:], 0)[places]  # the trie rejects a false candidate at the last token
        codes = (array[places] << 32) | following
        fits = self._is_single[clipped[places]]
        if len(self._pair_codes):
            at = np.minimum(np.searchsorted(self._pair_codes, codes), len(self._pair_codes) - 1)
            fits = fits | (self._pair_codes[at] == codes)
        tokens = array.tolist()
        trie, longest, lengths = self._trie, self.longest, self._lengths
        found = []
        end = 0
        for start in places[fits].tolist():
            if start < end:
                continue
            node, at, best = trie[tokens[start]], start + 1, -1
            while True:
                number = node.get(_HERE, -1)
                if number >= 0 and (best < 0 or longest or number < best):
                    best = number
                node = node.get(tokens[at]) if at < len(tokens) else None
                if node is None:
                    break
                at += 1
            if best >= 0:
                found.append((start, best))
                end = start + lengths[best]
        return found


def block_rng(seed: int, block: int) -> np.random.Generator:
    """Return the generator of one block's draws, independent of other blocks and of the order of processing."""
    return np.random.default_rng((seed, block))


def translate(
    tokens: Sequence[int] | np.ndarray, anchors: Anchors, tokenizer: Any, mode: str = "paper", seed: int = 0
) -> Translation:
    """Return the translation of one block.

    Each call compiles the dictionary. For many blocks use one `Translator`.

    Args:
      tokens: token ids [n].
      anchors: the dictionary.
      tokenizer: a transformers tokenizer.
      mode: "paper" or "longest"; see `MODES`.
      seed: seed of the draws.

    Raises:
      UserError: `tokens` are no token ids, or the mode is unknown.
    """
    _check_option("mode", mode, tuple(MODES))
    if isinstance(tokens, str):
        raise UserError(f"tokens is the text {tokens[:40]!r}; give its token ids, tokenizer(text)['input_ids']")
    ids = np.asarray(tokens)
    if ids.ndim != 1 or not (np.issubdtype(ids.dtype, np.integer) or not ids.size):
        raise UserError(
            f"tokens has shape {ids.shape} and dtype {ids.dtype}; give the token ids of one block as whole numbers"
        )
    match, draw = MODES[mode]
    return Translator(anchors, tokenizer, match=match, draw=draw).translate(tokens, block_rng(seed, 0))


def _check_option(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UserError(f"{name}: {value!r} is not one of {', '.join(allowed)}")
