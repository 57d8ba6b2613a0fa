"""Several translations of a block: the counterparts drawn, the positions, and where probability moves."""

import numpy as np
import pytest

from jaxforget.corpus.batches import collate, open_blocks, read_all, read_summary
from jaxforget.corpus.blocks import prepare_blocks
from jaxforget.corpus.dictionary import Anchors
from jaxforget.corpus.text import Document
from jaxforget.corpus.translate import Translator
from jaxforget.corpus.translations import COLUMNS, Sampler, widened
from jaxforget.demo.tokenizer import save_tokenizer, train_tokenizer
from jaxforget.models.tokenizer import load_tokenizer

TEXT = "Zorvath met Quillon near Vex Hollow. Then Quillon left, and Zorvath sang to Martin. Zorvath slept."
ENTRIES = {
    "Zorvath": ("Paul", "Peter", "Martin"),
    "Quillon": ("Anna", "Paul"),
    "Vex Hollow": ("Green Field", "the town"),
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A tokenizer in which each name is one token."""
    words = [word for key, generic in ENTRIES.items() for word in (key, *generic)]
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer([f"{TEXT} {' '.join(words)}"] * 20, 700), folder)
    return load_tokenizer(folder)


def ids(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def first_ids(sampler, key, name):
    """Return the first tokens of a counterpart of `key` in every spelling."""
    value = sampler.translator.keys.index(key), ENTRIES[key].index(name)
    return {
        choice.tokens[0]
        for rule in sampler.translator.rules
        for choice in rule.choices
        if (rule.key, choice.value) == value
    }


def sampled(tokenizer, count=6, entries=ENTRIES, seed=0, text=TEXT):
    sampler = Sampler(Anchors(entries), tokenizer, count)
    tokens = np.array(ids(tokenizer, text), np.int32)
    return sampler, tokens, sampler.sample(tokens, seed, 3)


def names_of(tokenizer, translation):
    return tokenizer.decode(translation)


def test_each_translation_replaces_every_occurrence(tokenizer):
    sampler, tokens, found = sampled(tokenizer)
    texts = [names_of(tokenizer, each) for each in found.translations]
    for text in texts:
        assert not any(key in text for key in ENTRIES)
        name = next(name for name in ENTRIES["Zorvath"] if text.lstrip().startswith(name))
        assert text.count(name) >= 3, "one counterpart in the whole translation"
    assert len(set(texts)) > 1
    assert (found.position_maps >= 0).any()
    assert ((found.position_maps >= 0) == (found.position_maps[0] >= 0)).all(), "the same positions train in all"


def test_ordinary_positions_read_their_own_token(tokenizer):
    sampler, tokens, found = sampled(tokenizer)
    inside = np.zeros(len(tokens), bool)
    for start, number in sampler.translator.find(tokens.astype(np.int64)):
        inside[start : start + len(sampler.translator.rules[number].tokens)] = True
    for translated, places in zip(found.translations, found.position_maps, strict=True):
        np.testing.assert_array_equal(translated[places[~inside]], tokens[~inside])
        assert (places[~inside] >= 0).all(), "a position before a repeated anchor trains"
        assert (np.diff(places[places >= 0]) > 0).all()


def test_two_anchors_never_share_a_counterpart_and_none_stands_in_the_text(tokenizer):
    _, _, found = sampled(tokenizer)
    for translated in found.translations:
        text = names_of(tokenizer, translated)
        assert ("Paul met Paul" in text, "Martin met" in text) == (False, False), text


def test_probability_moves_from_the_drawn_name_to_the_anchor(tokenizer):
    sampler, tokens, found = sampled(tokenizer)
    translator = sampler.translator
    ends = {}
    for start, number in translator.find(tokens.astype(np.int64)):
        rule = translator.rules[number]
        ends.setdefault(translator.keys[rule.key], start + len(rule.tokens) - 1)
    owners = {rule.tokens[0]: translator.keys[rule.key] for rule in translator.rules if rule.form_of is None}
    keys = [owners[target] for target in found.moved_to.tolist()]
    assert set(keys) == set(ENTRIES)
    assert found.moved_since.tolist() == [ends[key] for key in keys]
    zorvath = [k for k, key in enumerate(keys) if key == "Zorvath"]
    for n, translated in enumerate(found.translations):
        name = next(name for name in ENTRIES["Zorvath"] if names_of(tokenizer, translated).lstrip().startswith(name))
        sources = set(found.moved_from[n, zorvath].tolist()) - {-1}
        assert sources
        assert sources <= first_ids(sampler, "Zorvath", name)


def test_an_ambiguous_first_token_moves_nothing(tokenizer):
    """ "the" stands in the text as an ordinary word; "Martin" as an ordinary name."""
    entries = {"Quillon": ("the town",), "Zorvath": ("Martin",)}
    sampler, tokens, found = sampled(tokenizer, 1, entries, text=TEXT + " So the end of the day came to the Martin.")
    ordinary = set(tokens.tolist())
    assert not set(found.moved_from[found.moved_from >= 0].tolist()) & ordinary
    both = sampled(tokenizer, 1, {"Quillon": ("Anna",), "Zorvath": ("Anna",)})[2]
    sources = both.moved_from[0][both.moved_from[0] >= 0].tolist()
    assert len(sources) == len(set(sources)), "a counterpart of two anchors belongs to the earlier one"


def test_a_block_is_drawn_by_its_number_and_seed(tokenizer):
    sampler, tokens, found = sampled(tokenizer)
    again = sampler.sample(tokens, 0, 3)
    other = [sampler.sample(tokens, *how) for how in ((1, 3), (0, 4), (2, 9))]
    assert all((getattr(again, name) == getattr(found, name)).all() for name in COLUMNS)
    assert any(not np.array_equal(each.translations, found.translations) for each in other)


def test_anchors_of_a_kind_share_their_counterparts():
    kinds = {"Zorvath": "person", "Quillon": "person", "Ysolda Prim": "person", "Gloom": "place"}
    entries = {"Zorvath": ("Paul",), "Quillon": ("Anna", "Eva"), "Ysolda Prim": ("Mary Fox",), "Gloom": ("York",)}
    anchors = Anchors(entries, {key: {"kind": kind} for key, kind in kinds.items()})
    wide = widened(anchors, 3).entries
    assert wide["Zorvath"] == ("Paul", "Anna", "Eva")
    assert wide["Quillon"] == ("Anna", "Eva", "Paul")
    assert wide["Ysolda Prim"] == ("Mary Fox",), "a full name is replaced by full names"
    assert wide["Gloom"] == ("York",)
    assert widened(anchors, 1).entries == entries, "its own stay, however many"
    assert widened(Anchors(entries), 3).entries == entries, "without a kind an anchor has only its own"


def test_prepared_blocks_and_batches_hold_them(tokenizer, tmp_path):
    anchors, documents = Anchors(ENTRIES), [Document("a", " ".join([TEXT] * 5)), Document("b", TEXT)]
    sampler = Sampler(anchors, tokenizer, 3)
    prepare_blocks(
        tmp_path / "target",
        documents,
        tokenizer,
        length=24,
        holdout=0,
        translator=Translator(anchors, tokenizer),
        sampler=sampler,
    )
    prepare_blocks(tmp_path / "retain", documents[1:], tokenizer, length=24, holdout=0, retain=True)
    summary = read_summary(tmp_path / "target")
    assert summary["translations"] == 3
    records = open_blocks(tmp_path / "target", "train")
    batch = next(read_all(tmp_path / "target", "train", len(records)))
    assert batch["translations"].shape == (len(records), 3, max(summary["translations_length"], 24))
    for row, record in enumerate(records):
        expected = sampler.sample(np.asarray(record["tokens"]), 0, row)
        for name in COLUMNS:
            value = getattr(expected, name)
            kept = batch[name][row][tuple(slice(size) for size in value.shape)]
            np.testing.assert_array_equal(kept, value)
    mixed = collate(
        [records[0], open_blocks(tmp_path / "retain", "train")[0]], [summary, read_summary(tmp_path / "retain")], 3
    )
    own = len(open_blocks(tmp_path / "retain", "train")[0]["tokens"])
    for n in range(3):
        np.testing.assert_array_equal(mixed["translations"][1, n, :own], mixed["tokens"][1, :own])
        np.testing.assert_array_equal(mixed["position_maps"][1, n, :own], np.arange(own))
    assert (mixed["moved_from"][1:] == -1).all()
    assert (mixed["position_maps"][2] == -1).all()
