"""Kind, number and gender of an expression, judged by the words around it."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

from jaxforget.anchors.candidates import Candidate
from jaxforget.anchors.contexts import Context
from jaxforget.anchors.general import given_names, word_list, words_of
from jaxforget.anchors.scan import LINKS, TITLES

KINDS = ("person", "place", "thing", "craft", "creature", "saying")
# The lists of counterparts of each kind. They are finer than the kinds, because a river must not become a town. The
# first list of a kind is the default.
CAPITAL_SORTS = {
    "person": ("people_male", "people_female", "families", "peoples", "roles"),
    "place": ("towns", "lands", "waters", "woods", "houses"),
    "thing": ("things", "foods"),
    "craft": ("crafts", "games"),
    "creature": ("creatures",),
    "saying": ("sayings",),
}
LOWER_SORTS = {**CAPITAL_SORTS, "person": ("roles",), "place": ("spots",)}


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPEECH = _words(
    "said says asked replied cried answered whispered muttered shouted yelled exclaimed murmured told added continued "
    "called thought knew felt looked smiled laughed nodded shook grinned frowned sighed turned stood sat walked ran "
    "wanted liked loved hated wondered remembered began took went came saw heard decided tried spoke died lived "
    "married explained gasped shrugged stared"
)
INTO = _words("in at to from into near through around outside inside toward towards reach reached left leave visit")
HELD = _words("with a an the his her its their my your our holding held wearing wore carried this that another each")
ARTS = _words(
    "play played playing plays practise practised practice learn learnt learned learning study studied studying teach "
    "taught teaching game games art match matches lesson lessons craft skill subject trade sport team against master"
)
BODY = _words(
    "fur tail claws paws wings feathers snout beak fangs barked growled howled purred hissed squeaked flew galloped "
    "trotted mouth teeth legs scales bite bites howl hunt hunted hunter pet beast animal creature creatures herd flock "
    "wild tame leash cage nest lair feed fed"
)
UTTER = _words(
    "word words spell password motto cry cried shouted yelled whispered called saying curse chant oath bellowed"
)
SETTLED = _words(
    "village town city country land lived live lives born home river forest school road street map north south east"
)
HE, SHE = (
    _words("he him his himself boy man father brother son king uncle mr"),
    _words("she her hers herself girl woman mother sister daughter queen aunt mrs miss ms"),
)
MANY = _words("many some these those all several two three four five six ten few both most other hundreds dozens")
COUNTED = 0.2  # share of occurrences after an article below which a capitalised word is no common noun
HEADED = 0.2  # share of occurrences before a head (Kellynch Hall) from which a place's name needs a head of its own
TITLE_VOTES = 3  # a title tells the gender more surely than a pronoun, which may be another person's
_SORT_CUES = {
    "lands": _words("land country province county kingdom realm region empire nation"),
    "waters": _words("river lake stream sea banks bank along waters"),
    "woods": _words("forest wood woods hill hills mountain trees"),
    "houses": _words("school college academy house castle hall inn street road pupils prison"),
    "foods": _words("eat ate eaten eating drink drank drinking dish bowl plate cup glass taste tasted cook cooked "
                    "cooking breakfast lunch dinner supper tea meal hungry delicious bottle sip"),
    "games": _words("play played playing plays game games match matches team player players sport"),
}  # fmt: skip
_ART_ENDING = re.compile(r"(?:ing|ology|mancy|nomy|istry|ics|craft|ball|ism)$")
_PLACE_ENDING = re.compile(r"(?:ville|ton|shire|land|burg|burgh|ford|bury|mouth|wick|grad|stead|minster)$")
_MALE_TITLES = _words("mr sir lord king prince uncle brother father grandfather grandpa dad duke count baron master")
FEMALE_TITLES = _words("mrs ms miss lady queen princess aunt auntie sister mother grandmother grandma mum mom madam")


@dataclasses.dataclass(frozen=True)
class Nature:
    """Kind and grammatical form of an expression.

    Attributes:
      kind: one of `KINDS`.
      sort: name of the list from which its counterparts are drawn.
      scores: kind -> evidence for it, larger is stronger.
      plural: True if it is a plural.
      female: True for a female person, False for a male one, judged by title, first name and pronouns; None if they do
        not show it. It means something for persons only.
      family: True if the caller says that it is the last part of a full name.
    """

    kind: str
    sort: str
    scores: Mapping[str, float]
    plural: bool = False
    female: bool | None = None
    family: bool = False


def judge(candidate: Candidate, contexts: Sequence[Context], *, family: bool = False) -> Nature:
    """Return the nature of an expression, judged by its contexts.

    Args:
      candidate: the expression.
      contexts: its occurrences.
      family: True if it is the last part of a full name.
    """
    scores = dict.fromkeys(KINDS, 0.0)
    words = candidate.text.split()
    count = max(1, len(contexts))
    tally = {name: sum(test(one) for one in contexts) / count for name, test in _CUES.items()}
    plural = _is_plural(words[-1], contexts)
    scores["person"] += 2.0 * tally["speech"] + 1.5 * tally["title"] + 0.6 * tally["owner"] + tally["pronoun"]
    scores["place"] += 1.6 * tally["into"] + 1.2 * tally["settled"]
    scores["craft"] += 2.5 * tally["arts"]
    scores["creature"] += 2.0 * tally["body"] + 0.6 * tally["article"]
    scores["saying"] += 2.5 * tally["utter"] + 1.5 * tally["alone"]
    scores["thing"] += 0.7 * tally["article"]
    if candidate.name:
        scores["person"] += 0.35 + (0.6 if family else 0.0)
        scores["place"] += 0.15 + 1.5 * _headed(contexts)
        scores["person"] += 0.5 if plural else -0.3 if tally["article"] > 0.5 else 0.0
        if tally["article"] < COUNTED:
            scores["creature"] *= 0.3  # a creature's name follows an article, a pet's is a person's
    else:
        scores["thing"] += 0.45
        scores["person"] -= 0.6
        scores["place"] -= 0.4
    _by_head(words, scores)
    female = _is_female(words, contexts)
    if candidate.text in given_names("male") ^ given_names("female"):
        scores["person"] += 0.5
    kind = max(KINDS, key=lambda kind: scores[kind])
    rounded = {name: round(value, 3) for name, value in scores.items()}
    nature = Nature(kind, "", rounded, plural, female, family)
    return dataclasses.replace(nature, sort=choose_sort(nature, words[-1], contexts))


def _is_female(words: Sequence[str], contexts: Sequence[Context]) -> bool | None:
    """Return the gender of a person: by a title or a common first name, else by title, pronouns and a final a."""
    if len(words) > 1 and words[0].lower() in FEMALE_TITLES | _MALE_TITLES:
        return words[0].lower() in FEMALE_TITLES
    first = words[1] if len(words) > 1 and words[0].lower() in TITLES else words[0]
    if first in given_names("male") ^ given_names("female"):
        return first in given_names("female")
    he, she = (sum(_near(one, group) for one in contexts) for group in (HE, SHE))
    he += TITLE_VOTES * sum(bool(one.before) and one.before[0] in _MALE_TITLES for one in contexts)
    she += TITLE_VOTES * sum(bool(one.before) and one.before[0] in FEMALE_TITLES for one in contexts)
    if first.endswith("a"):
        she += 0.5 * len(contexts)
    return None if he == she else she > he


@functools.cache
def names_of(name: str) -> frozenset[str]:
    """Return the entries of a comma-separated list as a set."""
    return frozenset(entry.strip() for line in word_list(name) for entry in line.split(","))


def sorts_of(kind: str, word: str) -> tuple[str, ...]:
    """Return the lists with counterparts of a `kind` for an expression whose last word is `word`."""
    return (CAPITAL_SORTS if word[0].isupper() else LOWER_SORTS)[kind]


def choose_sort(nature: Nature, word: str, contexts: Sequence[Context]) -> str:
    """Return the list for the kind of `nature`, chosen by the contexts; `word` is the expression's last."""
    sorts = sorts_of(nature.kind, word)
    if nature.kind == "person" and word[0].isupper():
        articles = sum(not {"the", "a", "an"}.isdisjoint(one.before[:2]) for one in contexts) / max(1, len(contexts))
        if nature.plural:
            return "peoples"
        if articles > 0.5 and not nature.family:
            return "roles"
        return "families" if nature.family else "people_female" if nature.female else "people_male"
    if word[0].isupper() and nature.kind == "place" and _headed(contexts) > HEADED:
        return "towns"  # the entries of the other lists have heads: "Oakwood Hall" before "Hall" would double it
    share = {sort: sum(_said_of(one, _SORT_CUES[sort]) for one in contexts) for sort in sorts if sort in _SORT_CUES}
    best = max(share, key=lambda sort: share[sort], default=sorts[0])
    return best if share.get(best, 0) > 0.3 * max(1, len(contexts)) else sorts[0]


def _headed(contexts: Sequence[Context]) -> float:
    """Return the share of occurrences directly before a head of a place's name."""
    follows = (bool(one.after) and one.gap == " " and one.after[0] in words_of("heads_place") for one in contexts)
    return sum(follows) / max(1, len(contexts))


def _by_head(words: Sequence[str], scores: dict[str, float]) -> None:
    """Add the evidence of the form to `scores`: heads that name their kind (Forest, Order, Map), titles, endings."""
    heads = [word for word in words if word not in LINKS]
    # The head precedes a link ("Order of the Phoenix"). Without a link it is the last word.
    link = next((i for i, word in enumerate(words) if word in LINKS), None)
    head = (words[link - 1] if link else heads[-1]).lower()
    for kind in KINDS:
        if {head, head.removesuffix("s")} & words_of("heads_" + kind):
            scores[kind] += 1.5 if len(words) > 1 else 1.0
    if len(words) > 1 and words[0].lower() in TITLES:
        scores["person"] += 1.0
    if {head, head.removesuffix("s")} & names_of("creatures"):
        scores["creature"] += 1.0
    if len(words) == 1 and _PLACE_ENDING.search(head):
        scores["place"] += 0.4
    if len(words) == 1 and _ART_ENDING.search(head):
        scores["craft"] += 0.5


def _near(one: Context, group: frozenset[str]) -> bool:
    """Return True if the first gendered word after the expression, or else just before it, is in `group`."""
    told = next((word for word in (*one.after, *one.before[:2]) if word in HE or word in SHE), None)
    return told in group


def _said_of(one: Context, words: frozenset[str]) -> bool:
    return any(word in words for word in (*one.before[:4], *one.after[:2]))


def _article(one: Context) -> bool:
    return bool(one.before) and one.before[0] in HELD


def _into(one: Context) -> bool:
    near = one.before[1:2] if one.before[:1] == ("the",) else one.before[:1]
    return bool(near) and near[0] in INTO


def _alone(one: Context) -> bool:
    """Return True if the expression is a whole exclamation: nothing but quotation marks before it, "!" after it."""
    return one.gap[:1] == "!" and not one.sentence[: one.start].strip("\"“‘'— ").strip()


_CUES = {
    "speech": lambda one: any(word in SPEECH for word in (*one.after[:1], *one.before[:1])),
    "title": lambda one: bool(one.before) and one.before[0] in TITLES,
    "owner": lambda one: one.gap[:2] in ("'s", "’s"),
    "pronoun": lambda one: any(word in HE | SHE for word in one.after[:4]),
    "into": _into,
    "settled": lambda one: any(word in SETTLED for word in (*one.before[:4], *one.after[:2])),
    "arts": lambda one: any(word in ARTS for word in one.before[:2]) or bool(one.after and one.after[0] in ARTS),
    "body": lambda one: any(word in BODY for word in (*one.before[:4], *one.after)),
    "utter": lambda one: any(word in UTTER for word in one.before[:2]),
    "alone": _alone,
    "article": _article,
}


def _is_plural(word: str, contexts: Sequence[Context]) -> bool:
    """Return True if the word has a plural's ending and its contexts do not show a singular."""
    lower = word.lower()
    if lower.endswith(("men", "folk", "people")):
        return True
    if not lower.endswith("s") or lower.endswith(("ss", "us", "is")):
        return False
    single = sum(bool(one.before) and one.before[0] in ("a", "an") for one in contexts)
    several = sum(
        bool(one.before and one.before[0] in MANY) or bool(one.after and one.after[0] in ("are", "were", "have"))
        for one in contexts
    )
    article = sum(bool(one.before) and one.before[0] in HELD for one in contexts)
    return (
        several > single
        and (not word[0].isupper() or several + article > 0.25 * len(contexts))
        or (not word[0].isupper() and single == 0)
    )
