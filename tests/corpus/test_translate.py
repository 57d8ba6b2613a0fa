import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.translate import Choice, Rule, Translator, block_rng, derive_rules, translate
from jaxforget.errors import UserError
from tests.corpus.toy_text import KINDS, ids, make_text, make_tokenizer, make_words

REAL = KINDS[:2]


def slow_translate(tokens, rules, pick, longest=False):
    """Return the translation by a literal implementation of METHOD.md §4; `pick[r]` is rule r's draw."""
    pieces = []  # (original tokens, translated tokens, key or None, first ids or None)
    at = 0
    while at < len(tokens):
        fitting = [r for r, rule in enumerate(rules) if tuple(tokens[at : at + len(rule.tokens)]) == rule.tokens]
        if not fitting:
            pieces.append(([tokens[at]], [tokens[at]], None, ()))
            at += 1
            continue
        r = max(fitting, key=lambda r: (len(rules[r].tokens), -r)) if longest else fitting[0]
        choice = rules[r].choices[pick[r]]
        pieces.append((list(rules[r].tokens), list(choice.tokens), rules[r].key, choice.first_ids))
        at += len(rules[r].tokens)
    translated, position_map, seen, recorded = [], [], [], []
    for original, replacement, key, firsts in pieces:
        if key is not None:
            recorded += [(len(translated), first) for first in firsts]
            if key in seen:
                position_map[-1] = -1
            seen.append(key)
        position_map += [-1] * (len(original) - 1) + [len(translated) + len(replacement) - 1]
        translated += replacement
    # The token ids whose logits are suppressed at each translated position.
    suppressed = [{first for j, first in recorded if p > j} for p in range(len(translated))]
    return translated, position_map, suppressed


def as_sets(result):
    return [
        {int(i) for i, j in zip(result.suppress_ids, result.suppress_from, strict=True) if p > j}
        for p in range(len(result.translated))
    ]


def rules_of(*keys):
    """Return rules from (key number, key tokens, [value tokens, ...])."""
    return [
        Rule(key, tuple(tokens), tuple(Choice(tuple(value), (value[0],)) for value in values))
        for key, tokens, values in keys
    ]


def translator_of(rules, match="first", draw="per_variant"):
    """Return a translator of rules that are given as token ids, without a tokenizer."""
    translator = Translator.__new__(Translator)
    translator._compile(rules, match, draw)
    return translator


def run(tokens, rules, **options):
    return translator_of(rules, **options).translate(tokens, block_rng(0, 0))


def test_worked_example_of_the_method():
    a, H, b, R1, R2, c, d, e, X, Y1, Y2, Y3 = range(12)
    rules = rules_of((0, [H], [[X]]), (1, [R1, R2], [[Y1, Y2, Y3]]))
    result = run([a, H, b, R1, R2, c, H, d, R1, R2, e], rules)
    assert result.translated.tolist() == [a, X, b, Y1, Y2, Y3, c, X, d, Y1, Y2, Y3, e]
    assert result.position_map.tolist() == [0, 1, 2, -1, 5, -1, 7, -1, -1, 11, 12]
    assert as_sets(result) == [set(), set(), {X}, {X}, *[{X, Y1}] * 9]
    assert result.suppress_ids.tolist() == [X, Y1]
    assert result.suppress_from.tolist() == [1, 3]
    assert result.spans.tolist() == [[1, 1, 0], [3, 2, 1], [6, 1, 0], [8, 2, 1]]
    for array in (result.translated, result.position_map, result.suppress_ids, result.suppress_from):
        assert array.dtype == np.int32


@pytest.mark.parametrize("kind", REAL)
def test_worked_example_through_a_tokenizer(kind):
    tokenizer = make_tokenizer(kind)
    anchors = Anchors({"Karen": ("Jo",), "Wen Zar": ("Tha Lomi Bor",)})
    result = translate(ids(tokenizer, "lo Karen mi Wen Zar an Karen ed Wen Zar el"), anchors, tokenizer)
    assert tokenizer.decode(result.translated.tolist()) == "lo Jo mi Tha Lomi Bor an Jo ed Tha Lomi Bor el"
    assert len(result.spans) == 4


def test_adjacent_anchors_a_repeat_takes_the_loss_off_the_anchor_before():
    rules = rules_of((0, [1], [[7]]), (1, [2, 3], [[8, 9]]))
    result = run([1, 2, 3, 1, 1, 2, 3], rules)
    assert result.translated.tolist() == [7, 8, 9, 7, 7, 8, 9]
    # A repeated key sets the position before it to -1: 1 at 3 sets index 2, 1 at 4 sets 3, and (2 3) sets 4.
    assert result.position_map.tolist() == [0, -1, -1, -1, -1, -1, 6]


def test_overlapping_keys_take_the_first_in_order_or_the_longest():
    rules = rules_of((0, [1], [[10]]), (1, [1, 2], [[11]]), (2, [1, 2, 3], [[12]]), (3, [2, 3], [[13]]))
    assert run([1, 2, 3, 4], rules).translated.tolist() == [10, 13, 4]
    assert run([1, 2, 3, 4], rules, match="longest").translated.tolist() == [12, 4]
    assert run([1, 2, 4], rules, match="longest").translated.tolist() == [11, 4]
    # The first key in order wins although a later one is longer, and matches are disjoint.
    assert run([1, 2, 3, 4], rules[1:]).translated.tolist() == [11, 3, 4]


def test_block_edges():
    rules = rules_of((0, [1, 2], [[7, 8, 9]]))
    assert run([1, 2], rules).position_map.tolist() == [-1, 2]
    assert run([5, 1], rules).translated.tolist() == [5, 1], "a key cut by the block's end is not an anchor"
    assert run([2, 5, 1, 2], rules).position_map.tolist() == [0, 1, -1, 4]
    assert run([], rules).translated.tolist() == []
    assert run([10**9], rules).translated.tolist() == [10**9]


def test_state_resets_at_every_block():
    translator = translator_of(rules_of((0, [1], [[7]])))
    for block in range(2):
        assert translator.translate([5, 1], block_rng(0, block)).position_map.tolist() == [0, 1]


def test_the_earliest_record_of_a_suppressed_id_stands():
    # Two keys whose translations have the same first token.
    result = run([5, 1, 5, 2], rules_of((0, [1], [[7]]), (1, [2], [[7, 8]])))
    assert (result.suppress_ids.tolist(), result.suppress_from.tolist()) == ([7], [1])


def test_both_variants_of_a_translation_are_suppressed_and_both_of_a_key_count_as_one():
    tokenizer = make_tokenizer("llama2")
    text = "lo Karen\nKaren mi"
    tokens = ids(tokenizer, text)
    result = translate(tokens, Anchors({"Karen": ("Wen",)}), tokenizer)
    assert tokenizer.decode(result.translated.tolist()) == "lo Wen\nWen mi"
    (first, _, key), (second, _, same) = result.spans.tolist()
    assert key == same == 0
    assert result.position_map[second - 1] == -1, "the newline would predict the repeat"
    assert result.position_map[first - 1] == first - 1, "the first occurrence is trained"
    spaced, bare = (tokenizer.convert_tokens_to_ids(token) for token in ("▁Wen", "Wen"))
    assert set(result.suppress_ids.tolist()) == {spaced, bare}
    assert set(result.suppress_from.tolist()) == {first}


@st.composite
def dictionaries(draw):
    """Return rules over six token ids with up to two variants a key; they overlap, and translations contain keys."""
    token = st.integers(0, 5)
    sequence = st.lists(token, min_size=1, max_size=3).map(tuple)
    rules, taken = [], set()
    for key in range(draw(st.integers(1, 5))):
        for _ in range(draw(st.integers(1, 2))):
            tokens = draw(sequence)
            if (key, tokens) in taken:
                continue
            taken.add((key, tokens))
            values = draw(st.lists(sequence, min_size=1, max_size=2, unique=True))
            extra = draw(token)
            choices = tuple(Choice(value, tuple(dict.fromkeys((value[0], extra)))) for value in values)
            rules.append(Rule(key, tokens, choices))
    return rules


@settings(deadline=None, max_examples=300)
@given(dictionaries(), st.lists(st.integers(0, 6), max_size=40), st.integers(0, 3), st.booleans())
def test_agrees_with_a_slow_reading_of_the_method(rules, tokens, seed, longest):
    match = "longest" if longest else "first"
    result = translator_of(rules, match=match).translate(tokens, block_rng(seed, 0))
    found = (result.translated.tolist(), result.position_map.tolist(), as_sets(result))
    # The reference knows no draws, so it must give the same result for one of all possible draws.
    used = [r for r, rule in enumerate(rules) if len(rule.choices) > 1]
    draws = itertools.product(*(range(len(rules[r].choices)) for r in used))
    for draw in draws:
        pick = dict.fromkeys(range(len(rules)), 0) | dict(zip(used, draw, strict=True))
        if slow_translate(tokens, rules, pick, longest) == found:
            break
    else:
        pytest.fail("no draw of translations gives this result")
    trained = result.position_map[result.position_map >= 0]
    assert (np.diff(trained) > 0).all()
    assert len(result.position_map) == len(tokens)


@settings(deadline=None, max_examples=100)
@given(dictionaries(), st.lists(st.integers(0, 6), max_size=40))
def test_an_identity_dictionary_changes_nothing(rules, tokens):
    same = [Rule(rule.key, rule.tokens, (Choice(rule.tokens, rule.tokens[:1]),)) for rule in rules]
    result = run(tokens, same)
    assert result.translated.tolist() == tokens
    trained = np.flatnonzero(result.position_map >= 0)
    assert result.position_map[trained].tolist() == trained.tolist()


WORDS = ["karen", "Wen", "él", "Ωmega", "lo", "Zarß", "quil", "Bor's", "tha-mi", "🧙", "hu", "Édor"]


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(REAL),
    st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from([" ", "\n"])), min_size=1, max_size=25),
    st.dictionaries(st.sampled_from(WORDS), st.sampled_from(["Jo", "Él Zar", "Łó", "ing an"]), min_size=1, max_size=6),
)
def test_every_trained_prefix_decodes_to_the_translation_of_the_original_prefix(kind, words, dictionary):
    tokenizer = make_tokenizer(kind)
    text = "ka" + "".join(gap + word for word, gap in words) + " ka"
    tokens = ids(tokenizer, text)
    result = translate(tokens, Anchors({key: (value,) for key, value in dictionary.items()}), tokenizer)
    # The same on strings: a prefix of whole words -> its translation.
    original = expected = "ka"
    prefixes = {original: expected}
    for word, gap in words:
        original, expected = original + gap + word, expected + gap + dictionary.get(word, word)
        prefixes[original] = expected
    prefixes[text] = expected + " ka"
    checked = 0
    for i in np.flatnonzero(result.position_map >= 0):
        prefix = tokenizer.decode(tokens[: i + 1])
        if prefix in prefixes:
            translated = result.translated[: result.position_map[i] + 1].tolist()
            assert tokenizer.decode(translated) == prefixes[prefix]
            checked += 1
    assert checked >= 1
    assert tokenizer.decode(result.translated.tolist()) == prefixes[text]


def draws_of(draw, count=400):
    values = [[10], [11]]
    rules = rules_of((0, [1], values), (0, [2], values))
    translator = translator_of(rules, draw=draw)
    return [tuple(translator.translate([1, 2, 1, 2], block_rng(3, b)).translated.tolist()) for b in range(count)]


def test_per_variant_draws_each_and_per_key_draws_once():
    per_variant, per_key = draws_of("per_variant"), draws_of("per_key")
    assert all(row[:2] == row[2:] for row in per_variant + per_key), "one draw serves the whole block"
    # The draw is uniform: 400 draws of two are within six standard deviations (60) of half.
    assert {row[:2] for row in per_key} == {(10, 10), (11, 11)}
    assert abs(sum(row[0] == 10 for row in per_key) - 200) < 60
    counts = [per_variant.count(pair * 2) for pair in itertools.product((10, 11), repeat=2)]
    assert min(counts) > 50
    assert abs(sum(row[0] == 10 for row in per_variant) - 200) < 60


def test_draws_depend_on_seed_and_block_alone():
    translator = translator_of(rules_of(*[(k, [k], [[k + 20], [k + 40], [k + 60]]) for k in range(9)]))
    tokens = list(range(9))
    forward = [translator.translate(tokens, block_rng(5, b)).translated.tolist() for b in range(6)]
    backward = [translator.translate(tokens, block_rng(5, b)).translated.tolist() for b in reversed(range(6))]
    assert forward == backward[::-1]
    assert len({tuple(row) for row in forward}) > 1
    assert forward != [translator.translate(tokens, block_rng(6, b)).translated.tolist() for b in range(6)]


def test_what_a_tokenizer_cannot_express_is_noted_not_mistranslated():
    tokenizer = make_tokenizer("metaspace")  # it has no Greek letters
    translator = Translator(Anchors({"Ωmega": ("Jo",), "Karen": ("Ωmega", "Wen")}), tokenizer)
    assert sum("'Ωmega': has no token ids" in note for note in translator.notes) == 2
    assert sum("'Karen': 'Ωmega' has no token ids" in note for note in translator.notes) == 2
    result = translator.translate(ids(tokenizer, "lo Karen"), block_rng(0, 0))
    assert tokenizer.decode(result.translated.tolist()) == "lo Wen"
    with pytest.raises(UserError, match="none of 1 keys"):
        Translator(Anchors({"Ωmega": ("Jo",)}), tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"match": "last"}, "match: 'last' is not one of first, longest"), ({"draw": "x"}, "draw: 'x'")],
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(UserError, match=message):
        translator_of(rules_of((0, [1], [[2]])), **options)
    with pytest.raises(UserError, match="mode: 'fast' is not one of paper, longest"):
        translate([1], Anchors({"Karen": ("Jo",)}), make_tokenizer("llama2"), mode="fast")


class Counted(dict):
    """A node of the translator's trie that counts its look-ups."""

    asked = 0

    def get(self, *args):
        Counted.asked += 1
        return super().get(*args)


def test_the_work_of_a_token_does_not_grow_with_the_number_of_keys():
    """Return the look-ups in the trie for each token; every text has the same number of anchors."""
    rng = random.Random(0)
    words = make_words(rng, 4000)
    names = [word.capitalize() for word in make_words(rng, 3000)]
    entries = {}
    while len(entries) < 1600:
        first, second = rng.choice(names), rng.choice(names)
        key = rng.choice([first, f"the {first}", f"{first} {second}", rng.choice(words)])
        entries[key] = tuple(dict.fromkeys(rng.choices(names, k=3)))
    tokenizer = make_tokenizer("llama3")
    met = list(entries)[:160]
    text = "".join(make_text(rng, words, 1).replace(" ", f" {rng.choice(met)} ", 1) + "the " for _ in range(400))
    tokens = np.array(ids(tokenizer, text), np.int32)
    asked = []
    for count in (160, 1600):
        translator = Translator(Anchors(dict(list(entries.items())[:count])), tokenizer)

        def counted(node):
            return Counted({key: counted(value) if isinstance(value, dict) else value for key, value in node.items()})

        translator._trie = counted(translator._trie)
        Counted.asked = 0
        assert len(translator.matches(tokens)) > 300
        asked.append(Counted.asked / len(tokens))
    assert asked[1] < 2 * asked[0] + 0.5
    assert asked[1] < 2


@pytest.mark.parametrize("kind", ["llama3", "metaspace"])
@pytest.mark.parametrize("gap", [" ", "\n", "  ", "\u00a0", " \n", "\n "])
def test_a_name_is_found_whatever_gap_divides_its_words(kind, gap):
    """In hard-wrapped text the spans are those of the tokens of the text, with its gap."""
    tokenizer = make_tokenizer(kind)
    if tokenizer.decode(ids(tokenizer, f"lo{gap}hu")) != f"lo{gap}hu":
        gap = "\n"  # its vocabulary does not contain that character
    anchors = Anchors({"Zar Bor": ("Quil Wen",), "Zar": ("Jo",)})
    result = translate(ids(tokenizer, f"ka lo Zar{gap}Bor hu Zar el"), anchors, tokenizer)
    assert tokenizer.decode(result.translated.tolist()) == "ka lo Quil Wen hu Jo el"
    (first, size, key), (_, _, other) = result.spans.tolist()
    assert (key, other) == (0, 1)
    assert tokenizer.decode(ids(tokenizer, f"ka lo Zar{gap}Bor hu Zar el")[: first + size]) == f"ka lo Zar{gap}Bor"
    assert (result.position_map[first : first + size - 1] == -1).all()
    assert result.position_map[first + size - 1] >= 0


def test_three_words_may_be_divided_anywhere():
    tokenizer = make_tokenizer("llama3")
    translator = Translator(Anchors({"Zar Bor Wen": ("Quil Jo Hu",)}), tokenizer)
    for text in ("lo Zar\nBor Wen", "lo Zar Bor\nWen", "lo Zar\nBor\nWen", "Zar  Bor Wen", "lo\nZar Bor  Wen"):
        assert translator.matches(ids(tokenizer, text)) == [0], text
    assert translator.matches(ids(tokenizer, "lo Zar Bor\n\nWen")) == []


def test_forms_with_other_gaps_change_nothing_where_there_are_none():
    """Forms with other gaps do not change the draws, the order or the result of ordinary text."""
    tokenizer = make_tokenizer("llama3")
    anchors = Anchors(
        {"Zar Bor": ("Quil", "Wen", "Jo"), "Zar": ("Hu", "Lo"), "Bor Wen Zar": ("El", "Fi"), "Bor": ("Ka",)}
    )
    rules, _ = derive_rules(anchors.entries, tokenizer, gaps=False)
    assert len(derive_rules(anchors.entries, tokenizer)[0]) > 2 * len(rules)
    tokens = ids(tokenizer, "lo Zar Bor hu Zar el\nBor Wen Zar lo Bor\nZar lo Bor. Zar Bor")
    for draw in ("per_variant", "per_key"):
        for seed in range(20):
            plain = translator_of(rules, draw=draw).translate(tokens, block_rng(seed, 0))
            full = Translator(anchors, tokenizer, draw=draw).translate(tokens, block_rng(seed, 0))
            for name in ("translated", "position_map", "suppress_ids", "suppress_from", "spans"):
                np.testing.assert_array_equal(getattr(plain, name), getattr(full, name), err_msg=name)
