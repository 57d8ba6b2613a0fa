"""Diagnosis of a dictionary on its text and tokenizer, shown before the training that depends on it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxforget.corpus.blocks import REACH
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.translate import Rule, derive_rules

PIECES = 4  # a translation of more tokens a word than this counts as badly tokenised
SHOWN = 6  # items of a finding that are printed


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Findings about a dictionary.

    Attributes:
      keys: number of anchors.
      occurrences: number of their occurrences in the target.
      coverage: share of the target's positions with an anchor at most `REACH` tokens before them, in the same block.
      never: anchors that do not occur, apart from the hidden ones.
      hidden: anchor -> the anchor that always matches first because it is its beginning (match=first).
      retained: anchor -> its number of matches in the retained text, most frequent first.
      odd: (anchor, translation, reason) of translations that the tokenizer splits badly or cannot express.
      clashes: (anchor, translation, other) of translations that are, or contain, another anchor.
    """

    keys: int
    occurrences: int
    coverage: float
    never: tuple[str, ...] = ()
    hidden: Mapping[str, str] = dataclasses.field(default_factory=dict)
    retained: Mapping[str, int] = dataclasses.field(default_factory=dict)
    odd: tuple[tuple[str, str, str], ...] = ()
    clashes: tuple[tuple[str, str, str], ...] = ()

    def lines(self) -> list[str]:
        """Return a short table: one line for each kind of finding, none for a kind without findings."""
        rows = [
            ("anchors", f"{self.keys:,} with {self.occurrences:,} occurrences in the target"),
            ("coverage", f"{self.coverage:.0%} of positions are at most {REACH} tokens after an anchor"),
            ("never", _counted(self.never, "do not occur")),
            (
                "hidden",
                _counted(
                    [f"{key} (by {by})" for key, by in self.hidden.items()], "never match because another matches first"
                ),
            ),
            (
                "retained",
                _counted(
                    [f"{key} {count:,}" for key, count in self.retained.items()],
                    "occur in the retained text, which unlearning them may harm",
                ),
            ),
            (
                "split",
                _counted(
                    [f"{key} > {text}: {why}" for key, text, why in self.odd], "translations fit the tokenizer badly"
                ),
            ),
            (
                "clashes",
                _counted(
                    [
                        f"{key} > {text}" + (f" (contains {other})" if other != text else "")
                        for key, text, other in self.clashes
                    ],
                    "translations are or contain anchors",
                ),
            ),
        ]
        return [f"{name:9} {text}" for name, text in rows if text]


def diagnose(
    anchors: Anchors,
    tokenizer: Any,
    counts: Mapping[str, int],
    *,
    coverage: float,
    match: str = "first",
    retained: Mapping[str, int] | None = None,
) -> Diagnosis:
    """Return the findings about a dictionary.

    Args:
      anchors: the dictionary that translates the text.
      tokenizer: the model's tokenizer.
      counts: anchor -> its number of matches in the target.
      coverage: as `Diagnosis.coverage`.
      match: "first" or "longest", as for the translation.
      retained: anchor -> its number of matches in the retained text; None if there is none.
    """
    rules, _ = derive_rules(anchors.entries, tokenizer, gaps=False)
    never = [key for key in anchors.entries if not counts.get(key, 0)]
    behind = hidden_keys(rules, tuple(anchors.entries)) if match == "first" else {}
    met = sorted(((n, key) for key, n in (retained or {}).items() if n), key=lambda pair: (-pair[0], pair[1]))
    return Diagnosis(
        keys=len(anchors.entries),
        occurrences=sum(counts.values()),
        coverage=coverage,
        never=tuple(key for key in never if key not in behind),
        hidden={key: behind[key] for key in never if key in behind},
        retained={key: n for n, key in met},
        odd=tuple(_odd(anchors, tokenizer)),
        clashes=tuple(clashes(anchors)),
    )


def hidden_keys(rules: Sequence[Rule], keys: Sequence[str]) -> dict[str, str]:
    """Return the keys that can never match -> the key that matches instead.

    A key never matches if each of its forms begins with the tokens of an earlier rule of another key.

    Args:
      rules: rules in matching order.
      keys: the dictionary's keys, which `Rule.key` indexes.
    """
    ends: dict[tuple[int, ...], int] = {}
    hidden: dict[int, int] = {}
    free: set[int] = set()
    for rule in rules:
        by = next((ends[start] for n in range(1, len(rule.tokens) + 1) if (start := rule.tokens[:n]) in ends), None)
        if by is None or by == rule.key:
            free.add(rule.key)
        else:
            hidden.setdefault(rule.key, by)
        ends.setdefault(rule.tokens, rule.key)
    return {keys[key]: keys[by] for key, by in hidden.items() if key not in free}


def _odd(anchors: Anchors, tokenizer: Any) -> list[tuple[str, str, str]]:
    """Return the translations that the tokenizer cannot express, does not know or splits into many tokens."""
    from jaxforget.corpus.variants import derive_variants

    forms = derive_variants(tokenizer, [text for generic in anchors.entries.values() for text in generic])
    unknown = getattr(tokenizer, "unk_token_id", None)
    found = []
    for key, generic in anchors.entries.items():
        for text in generic:
            ids = [form for form in forms[text] if form is not None]
            if not ids:
                found.append((key, text, "has no tokens that decode back"))
            elif unknown is not None and any(unknown in form for form in ids):
                found.append((key, text, "contains unknown tokens"))
            elif (size := min(map(len, ids))) > PIECES * len(text.split()):
                found.append((key, text, f"{size} tokens"))
    return found


def clashes(anchors: Anchors) -> list[tuple[str, str, str]]:
    """Return (key, translation, anchor) where the translation, or a word of it, is another anchor.

    Base would then read the target's own words.
    """
    found = []
    for key, generic in anchors.entries.items():
        # A word that the translation shares with its own key (Warden of the Reeds > Warden of the Bells) is no clash.
        own = set(key.split())
        for text in generic:
            words = [text, *text.split()]
            other = next((word for word in words if word in anchors.entries and word != key and word not in own), None)
            if other is not None:
                found.append((key, text, other))
    return found


def _counted(items: Sequence[str], what: str) -> str:
    """Return a line such as "3 do not occur: a, b, c"; "" if there are no items."""
    if not items:
        return ""
    more = " ..." if len(items) > SHOWN else ""
    return f"{len(items):,} {what}: {', '.join(items[:SHOWN])}{more}"
