"""What is wrong with a dictionary, seen on the text and the tokenizer that it is for: told before hours are spent."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxforget.corpus.blocks import REACH
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.translate import Rule, derive_rules

PIECES = 4  # tokens a word from which a translation counts as oddly split
SHOWN = 6


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What a dictionary does to a text.

    Attributes:
      keys: anchors in all.
      occurrences: of them in the target.
      coverage: share of the target's positions with an anchor at most `REACH` tokens before them, in the same block.
      never: anchors that never match, though nothing hides them.
      hidden: anchor -> the anchor that always matches before it, being its beginning (match=first).
      retained: anchor -> how often it matches in the text to keep, most often first.
      odd: (anchor, translation, why) of translations that the tokenizer splits oddly or cannot express.
      clashes: (anchor, translation, other) of translations that are, or hold, another anchor.
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
        """A short table: one line a finding, none for what is in order."""
        rows = [
            ("anchors", f"{self.keys:,}, which stand {self.occurrences:,} times in the target"),
            ("coverage", f"{self.coverage:.0%} of positions have one at most {REACH} tokens before them"),
            ("never", _counted(self.never, "do not occur")),
            ("hidden", _counted([f"{key} (by {by})" for key, by in self.hidden.items()], "never match")),
            (
                "retained",
                _counted(
                    [f"{key} {count:,}" for key, count in self.retained.items()],
                    "stand in the text to keep, which their translation would harm",
                ),
            ),
            ("split", _counted([f"{key} > {text}: {why}" for key, text, why in self.odd], "translations")),
            (
                "clashes",
                _counted(
                    [
                        f"{key} > {text}" + (f" (has {other})" if other != text else "")
                        for key, text, other in self.clashes
                    ],
                    "translations are anchors themselves",
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
    """Looks a dictionary over.

    Args:
      anchors: as the text is translated by it.
      tokenizer: of the model.
      counts: how often each anchor matched in the target.
      coverage: as `Diagnosis.coverage`.
      match: "first" or "longest", as the text is translated.
      retained: the same counts in the text to keep; None = there is none.
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
    """Keys of which no form can match first: in each, an earlier rule's tokens are its beginning -> that rule's key."""
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
    """Translations that the tokenizer cannot express, knows nothing of, or cuts to pieces."""
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
                found.append((key, text, "holds unknown tokens"))
            elif (size := min(map(len, ids))) > PIECES * len(text.split()):
                found.append((key, text, f"{size} tokens"))
    return found


def clashes(anchors: Anchors) -> list[tuple[str, str, str]]:
    """(key, translation, anchor) where a whole word of the translation, or all of it, is another anchor: base would be
    told the target's own words."""
    found = []
    for key, generic in anchors.entries.items():
        # What a phrase keeps of itself (Warden of the Reeds > Warden of the Bells) is no clash.
        own = set(key.split())
        for text in generic:
            words = [text, *text.split()]
            other = next((word for word in words if word in anchors.entries and word != key and word not in own), None)
            if other is not None:
                found.append((key, text, other))
    return found


def _counted(items: Sequence[str], what: str) -> str:
    """As "3 do not occur: a, b, c"; empty for none."""
    if not items:
        return ""
    more = " ..." if len(items) > SHOWN else ""
    return f"{len(items):,} {what}: {', '.join(items[:SHOWN])}{more}"
