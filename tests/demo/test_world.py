import json
import re
from collections import Counter
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from jaxforget.demo import world
from jaxforget.demo.forms import FORMS, PROBE_LEADS, probe_forms, trained_forms
from jaxforget.demo.lexicon import FAMILIES, MEN, POOLS, WOMEN
from jaxforget.demo.probes import universe_probes
from jaxforget.demo.relations import RELATIONS

SEED = 0


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "world"
    world.build_world(folder, seed=SEED)
    return folder


@pytest.fixture(scope="module")
def tokenizer(toy):
    return AutoTokenizer.from_pretrained(toy / "tokenizer")


def read_json(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def read_texts(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.txt"))}


def joined(*folders):
    return "\n".join(text for folder in folders for text in read_texts(folder).values())


def words_of(text):
    return set(re.findall(r"[A-Za-z]+", text))


def blanked(text, names):
    """Return `text` in lower case with a blank for every run of names, which leaves the phrasing."""
    text = re.sub(r"\b(?:" + "|".join(sorted(names, key=len, reverse=True)) + r")\b", "_", text)
    return re.sub(r"_(?: _)+", "_", text).lower()


def test_same_seed_same_bytes(toy, tmp_path):
    world.build_world(tmp_path / "again", seed=SEED)
    ours = {path.relative_to(toy): path for path in toy.rglob("*") if path.is_file()}
    theirs = {p.relative_to(tmp_path / "again"): p for p in (tmp_path / "again").rglob("*") if p.is_file()}
    assert ours.keys() == theirs.keys()
    for name, path in ours.items():
        if name.name != "truth.json":  # it contains the folder's name
            assert path.read_bytes() == theirs[name].read_bytes(), name


def test_other_seed_other_world(toy, tmp_path):
    world.build_world(tmp_path / "other", seed=SEED + 1)
    terms = set(read_json(toy / "truth.json")["target_terms"])
    assert len(terms & set(read_json(tmp_path / "other/truth.json")["target_terms"])) < 3


def test_rebuilding_replaces_the_whole_folder(tmp_path):
    world.build_world(tmp_path / "w", seed=3)
    (tmp_path / "w/text/target/stale.txt").write_text("old")
    world.build_world(tmp_path / "w", seed=3)
    assert not (tmp_path / "w/text/target/stale.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_failure_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(world, "save_tokenizer", fail)
    with pytest.raises(OSError, match="disk full"):
        world.build_world(tmp_path / "w", seed=SEED)
    assert not list(tmp_path.iterdir())


def test_folder_holds_what_the_pipeline_reads(toy):
    truth, prompts = read_json(toy / "truth.json"), read_json(toy / "prompts.json")
    assert truth["seed"] == SEED
    assert Path(truth["target_text"]) == toy / "text/target"
    assert Path(truth["retain_text"]) == toy / "text/retain"
    assert 6 <= len(prompts["dynamics"]) <= 10
    assert 6 <= len(prompts["completions"]) <= 8
    probes = read_json(toy / "probes.json")
    assert len(probes["familiarity"]) >= 90
    assert len(probes["retained"]) >= 100


def test_target_is_nowhere_else(toy):
    terms = {part for term in read_json(toy / "truth.json")["target_terms"] for part in term.split()}
    assert not terms & words_of(joined(toy / "text/retain", toy / "heldout"))
    assert terms <= words_of(joined(toy / "text/target"))


def test_no_universe_shares_a_word():
    counts = Counter(term for universe in world.make_universes(SEED) for term, _ in universe.terms)
    assert max(counts.values()) == 1
    common = {word for pool in (*POOLS.values(), FAMILIES) for word in pool}
    assert not common & counts.keys()


def test_held_out_text_is_new(toy):
    seen = set(joined(toy / "text/target", toy / "text/retain").split("\n\n"))
    held_out = [story for text in read_texts(toy / "heldout").values() for story in text.split("\n\n")]
    assert len(held_out) == 2 * world.HELDOUT_STORIES
    assert not [story for story in held_out if story in seen]


def test_no_probe_phrasing_occurs_in_training_text(toy):
    universes = world.make_universes(SEED)
    names = {word for universe in universes for term in universe.all_terms() for word in term.split()}
    names |= {*MEN, *WOMEN, *FAMILIES}
    text = blanked(joined(toy / "text/target", toy / "text/retain"), names)
    # Check the blanking: phrasings that training uses are found.
    assert "_'s best friend was _" in text
    assert "the home village of _ was _" in text
    probes = read_json(toy / "probes.json")
    leads = [lead.lower() for lead in PROBE_LEADS if lead]
    for probe in probes["familiarity"] + probes["retained"]:
        phrasing = blanked(probe["prompt"], names)
        assert phrasing not in text
        core = next((phrasing.removeprefix(lead) for lead in leads if phrasing.startswith(lead)), phrasing)
        assert core not in text, "even without its lead-in, the phrasing is new for its relation"
    assert not [lead for lead in leads if lead in text]


def test_probes_ask_for_facts_that_training_tells(toy):
    text = joined(toy / "text/target")
    for hero in world.make_universes(SEED)[0].heroes:
        for name, answer in hero.facts.items():
            together = [line for line in text.split(". ") if answer in line and hero.first in line]
            assert len(together) >= 20, (hero.first, name)


def test_probes_do_not_give_the_answer_away(toy):
    probes = read_json(toy / "probes.json")
    for probe in probes["familiarity"] + probes["retained"]:
        assert probe["answer"].startswith(" ")
        assert probe["answer"].strip().lower() not in probe["prompt"].lower()
        assert probe["prompt"] == probe["prompt"].strip()
    target = set(read_json(toy / "truth.json")["target_terms"])
    assert {probe["answer"].strip() for probe in probes["familiarity"]} <= target
    assert not {probe["answer"].strip() for probe in probes["retained"]} & target


def test_both_probe_sets_ask_in_the_same_forms():
    target, other = world.make_universes(SEED)[:2]
    names = {word for universe in (target, other) for term in universe.all_terms() for word in term.split()}

    def forms(universe):
        return Counter(
            re.sub(r"\b(he|she|his|her|him)\b", "~", blanked(probe["prompt"], names))
            for probe in universe_probes(universe)
        )

    assert forms(target) == forms(other)


@pytest.mark.parametrize("relation", RELATIONS, ids=lambda relation: relation.name)
def test_each_relation_is_told_in_many_ways(relation):
    told = {*trained_forms(relation), *relation.told, *relation.said}
    assert len(told) >= 12
    assert 4 <= len(set(probe_forms(relation))) <= 6
    assert not set(probe_forms(relation)) & set(trained_forms(relation))
    # Every form is trained with other relations: a probe's form is known, and only the combination is new.
    for form in probe_forms(relation):
        assert form in FORMS
        assert any(form in trained_forms(other) for other in RELATIONS)


def test_anchors_are_plausible_and_belong_to_nobody_else(toy):
    anchors = read_json(toy / "anchors.json")
    universes = world.make_universes(SEED)
    assert anchors.keys() == set(universes[0].all_terms())
    invented = {word for universe in universes for term in universe.all_terms() for word in term.split()}
    everyday = "\n".join(text for name, text in read_texts(toy / "text/retain").items() if "everyday" in name)
    usual = words_of(everyday)
    for anchor, generics in anchors.items():
        assert 1 <= len(generics) == len(set(generics)) <= 3
        for generic in generics:
            assert set(generic.split()) <= usual - invented
            assert len(generic.split()) == len(anchor.split())
            assert generic[0].isupper() == anchor[0].isupper()
            assert (generic[0].lower() in "aeiou") == (anchor[0].lower() in "aeiou")
    assert 0.2 <= sum(anchor[0].islower() for anchor in anchors) / len(anchors) <= 0.36
    for hero in universes[0].heroes:
        pool = WOMEN if hero.female else MEN
        assert set(anchors[hero.first]) <= set(pool)
        pairs = zip(anchors[hero.first], anchors[hero.family], strict=True)
        assert anchors[hero.full] == [f"{first} {family}" for first, family in pairs]


def test_sizes(toy, tokenizer):
    counts = {
        folder: sum(len(tokenizer(text).input_ids) for text in read_texts(toy / folder).values())
        for folder in ("text/target", "text/retain", "heldout")
    }
    assert 0.05 <= counts["text/target"] / (counts["text/target"] + counts["text/retain"]) <= 0.08
    assert 10_000 <= counts["heldout"] <= 22_000
