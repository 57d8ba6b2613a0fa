"""General language to set a text against: word frequencies from the `wordfreq` package, and a retained corpus."""

import dataclasses
import functools
import importlib.resources
import math
from collections.abc import Iterable, Mapping

from jaxforget.errors import UserError

# Below about one in 10^8 the lists say nothing: a word that they lack may be that frequent.
FLOOR = 1e-8
NEEDS_MORE = ("zh", "ja", "ko")  # their words need a segmenter that is not installed


@dataclasses.dataclass(frozen=True)
class General:
    """Frequencies of general language, as shares of running words, and of text to keep, where there is some.

    Attributes:
      frequencies: lower-case word -> share.
      retained: lower-case word -> count in the retained text.
      retained_words: running words of that text; 0 = there is none.
    """

    frequencies: Mapping[str, float]
    retained: Mapping[str, int] = dataclasses.field(default_factory=dict)
    retained_words: int = 0

    def frequency(self, word: str) -> float:
        """The share of a lower-case word; of a compound, its rarest part's; 0 for one that nobody counted."""
        found = self.frequencies.get(word.replace("’", "'"))
        if found is None and "-" in word:
            return min(self.frequency(part) for part in word.split("-") if part)
        return found or 0.0

    def contrast(self, word: str, count: float, words: int) -> float:
        """log2 of how many times more frequent a word is in the text than in general language.

        `count` of `words` running words; one standard deviation is taken off the count, so that rare words must show
        more.
        """
        share = max(count - math.sqrt(count), 0.5) / max(words, 1)
        return math.log2(share / (self.frequency(word) + FLOOR))

    def over_retained(self, word: str, count: float, words: int) -> float | None:
        """The same against the retained text; None where it holds too little to say anything of this word."""
        expected = count / max(words, 1) * self.retained_words
        met = self.retained.get(word, 0)
        if expected < 2 and met < 2:
            return None
        return math.log2(expected / (met + 0.5))


@functools.cache
def frequencies(language: str) -> Mapping[str, float]:
    """Word -> share of running words of a language, from `wordfreq` (a third of a second; then kept).

    Raises:
      UserError: a language that the package has no list of, or cannot split into words without a further one.
    """
    import wordfreq  # its data are read at the first call only

    known = sorted(set(wordfreq.available_languages()) - set(NEEDS_MORE))
    if language not in known:
        raise UserError(f"anchors.language={language}: no word frequencies; give one of {', '.join(known)}")
    return wordfreq.get_frequency_dict(language)


@functools.cache
def word_list(name: str) -> tuple[str, ...]:
    """The entries of a list of this package, one a line; lines that begin with # are notes."""
    text = (importlib.resources.files(__package__) / "lists" / f"{name}.txt").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def words_of(name: str) -> frozenset[str]:
    """A list whose lines hold several words each, as a set."""
    return frozenset(word for line in word_list(name) for word in line.split())


def share_known(words: Iterable[tuple[str, int]], general: General) -> float:
    """Share of running words that general language knows: low for text of another language."""
    total = known = 0
    for word, count in words:
        total += count
        known += count if general.frequency(word) > 1e-7 else 0
    return known / max(total, 1)
