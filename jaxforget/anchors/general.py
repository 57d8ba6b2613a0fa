"""Frequencies of general language, from the `wordfreq` package, and of a retained corpus."""

import dataclasses
import functools
import importlib.resources
import math
from collections.abc import Iterable, Mapping

from jaxforget.errors import UserError

# The lists contain no word below about 1e-8, so a word that they do not contain may be that frequent.
FLOOR = 1e-8
NEEDS_MORE = ("zh", "ja", "ko")  # these languages need a word segmenter that is not installed


@dataclasses.dataclass(frozen=True)
class General:
    """Word frequencies of general language and of the retained text.

    Attributes:
      frequencies: lower-case word -> share of running words.
      retained: lower-case word, or two words of a name -> count in the retained text.
      retained_words: number of running words of the retained text; 0 if there is none.
    """

    frequencies: Mapping[str, float]
    retained: Mapping[str, int] = dataclasses.field(default_factory=dict)
    retained_words: int = 0

    def frequency(self, word: str) -> float:
        """Return the share of a lower-case word, or of the rarest part of a compound; 0 for an unknown word."""
        found = self.frequencies.get(word.replace("’", "'"))
        if found is None and "-" in word:
            return min(self.frequency(part) for part in word.split("-") if part)
        return found or 0.0

    def contrast(self, word: str, count: float, words: int) -> float:
        """Return log2 of a word's frequency in the text over its frequency in general language.

        One standard deviation (sqrt of the count) is subtracted from the count, so that chance makes no rare word
        stand out.

        Args:
          word: a lower-case word.
          count: its occurrences in the text.
          words: number of running words of the text.
        """
        share = max(count - math.sqrt(count), 0.5) / max(words, 1)
        return math.log2(share / (self.frequency(word) + FLOOR))

    def over_retained(self, word: str, count: float, words: int) -> float | None:
        """Return `contrast` against the retained text; None if that text lacks the word or is too short to judge it."""
        expected = count / max(words, 1) * self.retained_words
        met = self.retained.get(word, 0)
        if not met or (expected < 2 and met < 2):
            return None
        return math.log2(expected / (met + 0.5))


@functools.cache
def frequencies(language: str) -> Mapping[str, float]:
    """Return the shares of a language's words from `wordfreq`; the first call takes a third of a second.

    Raises:
      UserError: `wordfreq` has no list of this language, or needs a further package to split it into words.
    """
    import wordfreq  # imported here because the import is slow

    known = sorted(set(wordfreq.available_languages()) - set(NEEDS_MORE))
    if language not in known:
        raise UserError(f"anchors.language={language}: no word frequencies; give one of {', '.join(known)}")
    return wordfreq.get_frequency_dict(language)


@functools.cache
def word_list(name: str) -> tuple[str, ...]:
    """Return the lines of a list of this package without comments (#) and empty lines."""
    text = (importlib.resources.files(__package__) / "lists" / f"{name}.txt").read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def words_of(name: str) -> frozenset[str]:
    """Return the words of a list as a set; a line may contain several."""
    return frozenset(word for line in word_list(name) for word in line.split())


@functools.cache
def given_names(*genders: str) -> frozenset[str]:
    """Return the known first names of `genders`, "female" and "male"; of both if none is named."""
    lists = [f"{use}_{gender}" for gender in genders or ("female", "male") for use in ("people", "given")]
    return frozenset(name.strip() for part in lists for line in word_list(part) for name in line.split(","))


def share_known(words: Iterable[tuple[str, int]], general: General) -> float:
    """Return the share of running words that general language contains: low for text of another language."""
    total = known = 0
    for word, count in words:
        total += count
        known += count if general.frequency(word) > 1e-7 else 0
    return known / max(total, 1)
