"""Forms of ordinary words: endings, compounds and other spellings, which show that a word is no anchor."""

import re

from jaxforget.anchors.general import General

# Endings of verbs, adverbs and adjectives on a known stem. Anchors name things, so such words are no candidates.
_FORMED = re.compile(r"(?<=..)(?:ed|ing|ly|est|less|like|ish|ful|ous|able|ible)$")
_ABSTRACT = re.compile(
    r"(?<=..)(?:ness(?:es)?|it(?:y|ies)|[ts]ions?|ments?|[ae]nc(?:e|es|y|ies)|tude|acy|acies|ures?|als?|isms?)$"
)
_SPELLINGS = (("z", "s"), ("s", "z"), ("s", "c"), ("x", "ct"), ("ew", "ow"), ("y", "i"), ("i", "y"), ("u", "oo"),
              ("pt$", "pped"), ("pt$", "ped"), ("t$", "ed"), ("([lnprst])(?!\\1)", "\\1\\1"), ("ck$", "c"),
              ("our", "or"), ("or", "our"), ("e", "ae"), ("en", "in"), ("in", "en"), ("u(?=s)", "oo"))  # fmt: skip
_MANNER = re.compile(r"(?<=..)(?:ing|ed|i|ous|ful|less|ish|ab|ib|al|iv)ly$")


def is_noun_like(word: str, general: General) -> bool:
    """Return True if the form of a lower-case word allows a noun that names something concrete."""
    if "'" in word or "’" in word or _MANNER.search(word):
        return False
    if word.startswith("un") and general.frequency(word[2:]) > 1e-7:
        return False
    if _ABSTRACT.search(word) and general.frequency(word) > 0:
        return False  # a quality or an act, for which no list has counterparts
    if any(general.frequency(other) > 1e-6 for other in spellings(word)):
        return False  # surprize, shewn, dropt: a common word in another spelling
    if word.endswith("in") and general.frequency(word + "g") > 1e-6:
        return False  # anythin', written as it is spoken
    parts = word.split("-")
    if len(parts) > 1 and all(general.frequency(part) > 1e-6 for part in parts):
        return len(parts) == 2 and not any(_FORMED.search(part) for part in parts)
    formed = _FORMED.search(word)
    return not (formed and (general.frequency(word) > 0 or _known_stem(word[: formed.start()], general)))


def spellings(word: str) -> set[str]:
    """Return a word in other spellings: z for s, x for ct, ew for ow, y for i, -pt for -pped, one letter for two."""
    found = set()
    for old, new in _SPELLINGS:
        found |= {word[: m.start()] + m.expand(new) + word[m.end() :] for m in re.finditer(old, word)}
    return found - {word}


def _known_stem(stem: str, general: General) -> bool:
    return any(general.frequency(stem + ending) > 1e-7 for ending in ("", "e")) or general.frequency(stem[:-1]) > 1e-6
