"""Cloze probes: names that the words before them do not hold."""

from jaxforget.evals.cloze import cloze_probes

FILLER = "and then the road went on past a field " * 3


def asked(text: str, names: list[str], **settings) -> list[tuple[str, str]]:
    return [(probe.prompt, probe.answer) for probe in cloze_probes(text, names, context=6, **settings)]


def test_a_name_is_asked_where_the_words_before_it_do_not_hold_it():
    text = f"{FILLER}there stood Zorvath with a lamp, and Zorvath spoke. {FILLER}came Zorvath."
    found = asked(text, ["Zorvath"])
    assert found == [
        ("on past a field there stood", " Zorvath"),
        ("went on past a field came", " Zorvath"),
    ]


def test_a_part_of_the_name_before_it_counts_too():
    assert not asked(f"{FILLER}old Mr. Vex met Ilda Vex.", ["Ilda Vex"])


def test_the_longest_name_is_asked_and_a_title_stays_in_the_prompt():
    [(prompt, answer)] = asked(f"{FILLER}he met Mr. Ilda Vexley.", ["Ilda", "Ilda Vexley", "Vexley"])
    assert answer == " Ilda Vexley"
    assert prompt.endswith("he met Mr.")
    assert not asked(f"{FILLER}he met Vexleyson.", ["Vexley"]), "a name inside a word"


def test_prompts_have_all_their_words_and_a_space_before_the_answer():
    assert not asked("Ilda came", ["Ilda"]), "no words before it"
    assert not asked(f'{FILLER}he said "Ilda', ["Ilda"])


def test_draws_are_limited_repeatable_and_in_the_order_of_the_text():
    names = ["Ilda", "Vexley", "Mox"]
    text = "".join(f"{FILLER}came {name}. " for _ in range(5) for name in names)
    few = asked(text, names, per_name=2, limit=4, seed=1)
    assert few == asked(text, names, per_name=2, limit=4, seed=1)
    assert len(few) == 4
    assert max([answer for _, answer in few].count(f" {name}") for name in names) <= 2
    everything = asked(text, names, per_name=9, limit=99)
    assert len(everything) == 15
    assert [answer for _, answer in everything[:3]] == [" Ilda", " Vexley", " Mox"]
    assert not asked(text, [])
