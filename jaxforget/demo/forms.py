"""Sentence forms that state any relation, and the choice of those that a relation reserves for its probes."""

from jaxforget.demo.relations import RELATIONS, Relation

# Forms that state any relation and end in the answer. Training text uses some of them for a relation, and probes use
# the others (`trained_forms`, `probe_forms`): the words and the form are known, their combination was never read.
FORMS = (
    "{S}'s {k} was {d}{o}",
    "the {k} of {S} was {d}{o}",
    "as for {S}, {his} {k} was {d}{o}",
    "when people asked {S} about {his} {k}, the answer was always {d}{o}",
    "{S} had only one {k}, and that was {d}{o}",
    "there was no secret about {S}'s {k}, for it was {d}{o}",
    "anyone who knew {S} also knew that {his} {k} was {d}{o}",
    "{S} often told people that {his} {k} was {d}{o}",
    "if you ever met {S}, you would soon hear that {his} {k} was {d}{o}",
    "{S} wanted no other {k} than {d}{o}",
    "they all liked to talk about {S}, whose {k} was {d}{o}",
    "the only {k} of {S} that people could name was {d}{o}",
)

# Openings that precede a form. The second list is reserved for probes.
LEADS = (
    "Everyone knew that ",
    "In those days ",
    "It was well known that ",
    "By that time ",
    "People say that ",
    "As you may have heard, ",
    "Of course, ",
    "It is true that ",
)
PROBE_LEADS = (
    "",
    "Everyone in town agreed that ",
    "The old people of the valley still say that ",
    "Many years later it was still true that ",
)

PROBES_PER_RELATION = 4


def probe_forms(relation: Relation) -> tuple[str, ...]:
    """Return the forms that no text uses for this relation; the first two forms are always trained."""
    start = RELATIONS.index(relation)
    rest = FORMS[2:]
    return tuple(rest[(start + 3 * i) % len(rest)] for i in range(PROBES_PER_RELATION))


def trained_forms(relation: Relation) -> tuple[str, ...]:
    """Return the forms that training text may use for this relation."""
    held_out = probe_forms(relation)
    return tuple(form for form in FORMS if form not in held_out)
