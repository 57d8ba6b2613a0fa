"""One pass over a text: counts of words by their place in the sentence, and runs of capitalised words."""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from jaxforget.corpus.text import Document

WORD = re.compile(r"[^\W\d_]+(?:['’‐-][^\W\d_]+)*")
# Words that link the words of one name: Ministry of Magic, Order of the Garter, Ludwig van Beethoven.
_LINKS = "of the de la le du des der von van"
LINKS = frozenset(_LINKS.split())
# A full stop after one of these ends no sentence, and none of these is a name alone.
_TITLES = (
    "mr mrs ms dr st prof mister miss missus madam madame master mistress sir lady lord dame professor doctor captain "
    "colonel major general sergeant lieutenant inspector father mother brother sister uncle aunt auntie cousin "
    "grandfather grandmother grandpa grandma mum mom mamma mama dad papa king queen prince princess duke duchess "
    "count countess baron baroness baronet earl viscount viscountess marquis marquess marchioness dowager "
    "emperor empress president minister senator bishop pope saint reverend headmaster headmistress admiral commodore "
    "esq esquire"
)
QUALITIES = frozenset(["old", "young", "little", "great", "big", "poor", "dear"])
TITLES = QUALITIES | frozenset(_TITLES.split())
ALWAYS = 0.9  # share of capitals from which a word is part of a name wherever it occurs
# Places of a word: inside a sentence, at its start (where a capital is no evidence of a name), unknown.
MID, START, UNSURE = 0, 1, 2
_PLAIN_GAP = re.compile(r"[,;]? |[-–—/]| [-–—] |\) | \(")
_POSSESSIVE = ("'s", "’s")


@dataclasses.dataclass(frozen=True)
class Scan:
    """Counts of one pass over a text.

    Attributes:
      words: number of running words.
      places: surface form without possessive ending -> its counts at MID, START, UNSURE.
      folded: lower-case form -> count over all its forms.
      runs: (place of the first word, two or more adjacent capitalised words) -> count.
    """

    words: int
    places: Mapping[str, tuple[int, int, int]]
    folded: Mapping[str, int]
    runs: Mapping[tuple[int, tuple[str, ...]], int]

    def capitals(self) -> float:
        """Return the share of words inside sentences that are capitalised: near 0 in lower-case text."""
        capital = sum(counts[MID] for form, counts in self.places.items() if form[0].isupper() and form != "I")
        return capital / max(1, sum(counts[MID] for counts in self.places.values()))

    def cased(self) -> bool:
        """Return True if the text uses capitals."""
        return self.capitals() > 0.005 or self.opened() > 0.5

    def always_capital(self, form: str) -> bool:
        """Return True if the text hardly ever writes the word of a capitalised form without its capital."""
        return sum(self.places.get(form, (0,))) >= ALWAYS * max(1, self.folded.get(form.lower(), 0))

    def pairs(self) -> Counter[tuple[str, str]]:
        """Return the counts of adjacent capitalised words."""
        counts: Counter[tuple[str, str]] = Counter()
        for (_, run), count in self.runs.items():
            for first, second in itertools.pairwise(run):
                counts[first, bare(second)] += count
        return counts

    def expressions(self) -> dict[str, int]:
        """Return the counts of lower-case words and, as "box hill", of adjacent words with capitals."""
        return {
            **self.folded,
            **{f"{first} {second}".lower(): count for (first, second), count in self.pairs().items()},
        }

    def titled(self) -> Counter[str]:
        """Return the occurrences of each word directly after a title of a person (Mr, Captain, Lady)."""
        counts: Counter[str] = Counter()
        for (title, word), count in self.pairs().items():
            if title.lower() in TITLES - QUALITIES:
                counts[word] += count
        return counts

    def opened(self) -> float:
        """Return the share of words at sentence starts that are capitalised: near 1 in ordinary text."""
        capital = sum(counts[START] for form, counts in self.places.items() if form[0].isupper())
        return capital / max(1, sum(counts[START] for counts in self.places.values()))


def scan(documents: Iterable[Document]) -> Scan:
    """Count words, their places and runs of capitalised words; about a million words in three seconds."""
    counts: Counter[tuple[str, int]] = Counter()
    runs: Counter[tuple[int, tuple[str, ...]]] = Counter()
    for document in documents:
        _scan_text(document.text, counts, runs)
    places: dict[str, list[int]] = {}
    folded: Counter[str] = Counter()
    for (form, place), count in counts.items():
        places.setdefault(form, [0, 0, 0])[place] += count
        folded[form.lower()] += count
    return Scan(sum(folded.values()), {form: tuple(found) for form, found in places.items()}, folded, runs)


def _scan_text(text: str, counts: Counter, runs: Counter) -> None:
    """Add one document's words to `counts` and its runs to `runs`."""
    # In text with lines of fixed width a line's end counts as a space.
    known = {"\n": MID} if is_wrapped(text) else {}
    breaks = tuple(known)
    end, previous = 0, ""
    run: list[str] = []  # the capitalised words met so far, links between them included
    first, pending = UNSURE, 0  # where the run began; links at its end that no name has followed yet
    for match in WORD.finditer(text):
        word, begin = match.group(), match.start()
        gap = text[end:begin]
        place = known.get(gap)
        if place is None:
            place = _place(gap, whole=end == 0)
            if len(gap) < 6:
                known[gap] = place
        joined = gap == " " or gap in breaks
        if place == START and gap == ". " and previous.lower() in TITLES:
            place, joined = MID, True
        end, previous = match.end(), word
        base = bare(word)
        counts[base, place] += 1
        if base[0].isupper() and not (len(base) > 1 and base.isupper()) and base != "I":
            if run and joined:
                run.append(word)
                pending = 0
            else:
                _close(run, pending, first, runs)
                run, first, pending = [word], place, 0
        elif run:
            linked = not pending or (pending == 1 and word == "the" and run[-1] == "of")
            if joined and linked and word in LINKS and (word != "the" or pending):
                run.append(word)
                pending += 1
            else:
                _close(run, pending, first, runs)
                run = []
    _close(run, pending, first, runs)


def _place(gap: str, *, whole: bool) -> int:
    """Return the place of a word after `gap`, the characters since the previous word; `whole`: it is the first."""
    if whole or "\n\n" in gap or any(mark in gap for mark in '.!?:…"“”«»'):
        return START
    return MID if _PLAIN_GAP.fullmatch(gap) else UNSURE


def _close(run: list[str], pending: int, first: int, runs: Counter) -> None:
    """Count a finished run without the links at its end and the possessive of its last word."""
    words = run[: len(run) - pending] if pending else run
    if len(words) > 1:
        runs[first, (*words[:-1], bare(words[-1]))] += 1


def is_wrapped(text: str) -> bool:
    """Return True if the text has lines of fixed width: most lines that another follows end inside a sentence."""
    ends = re.findall(r"([^\n])\n(?=[^\n])", text)
    return len(ends) > 3 and sum(end not in '.!?:…"”’' for end in ends) > 0.5 * len(ends)


def sentences(text: str) -> Iterator[tuple[int, int]]:
    """Yield the character ranges of a text's sentences, including closing quotation marks; none is empty."""
    begin = 0
    pattern = r"(?:[.!?…]+[\"”’')\]]*(?=\s)|\n{2,}" + ("" if is_wrapped(text) else r"|\n(?=[\"“A-Z])") + r")\s*"
    for match in re.finditer(pattern, text):
        word = re.search(r"[^\W\d_]+$", text[max(begin, match.start() - 12) : match.start()])
        if text[match.start()] == "." and word and word.group().lower() in TITLES:
            continue
        if text[begin : match.end()].strip():
            yield begin, match.end()
        begin = match.end()
    if text[begin:].strip():
        yield begin, len(text)


def bare(word: str) -> str:
    """Return `word` without a possessive ending."""
    return word[:-2] if word.endswith(_POSSESSIVE) else word
