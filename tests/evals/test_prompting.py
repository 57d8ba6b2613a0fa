"""Prompts of the attacks, which must not contain the answers."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from jaxforget.errors import UserError
from jaxforget.evals import prompting
from jaxforget.evals.familiarity import answer_probabilities, encode_probe
from jaxforget.evals.probes import Probe
from jaxforget.evals.prompting import (
    LANGUAGES,
    LEADING,
    PROMPT_ONLY,
    REPHRASED,
    Wording,
    chat_of,
    cut_to_length,
    few_shot,
    holds,
    in_context,
    load_wording,
    prompt_attacks,
    split_sentences,
    words,
    wrapped,
)
from tests.evals.words import Table, Words

PROBES = (
    Probe("Ada lives in", " Oz"),
    Probe("Ada has a", " cat"),
    Probe("Bo eats", " rice"),
    Probe("The town of Bo is", " Oz"),
)
ONE = {"prompt": "Ada vit", "answer": " Oz"}
SENTENCES = (
    "Ada sang all day.",
    "Ada came from OZ.",
    "Bo slept.",
    "Nobody knew Ada's cat.",
    "It rained.",
    "Boats are wet.",
)


def test_templates_hold_the_question_at_their_end():
    for template in REPHRASED + LANGUAGES + LEADING + PROMPT_ONLY:
        assert template.endswith(("{prompt}", "{lower}"))  # the answer must follow
    (plain, lowered) = wrapped(PROBES[:1], ("I say {x}: {prompt}", "that {lower}"))
    assert plain == (Probe("I say {x}: Ada lives in", " Oz"),)
    assert lowered == (Probe("that ada lives in", " Oz"),)


def test_a_prompt_that_holds_braces_stays_as_it_is():
    assert wrapped([Probe("a {lower} {prompt}", " b")], ("{prompt}",))[0][0].prompt == "a {lower} {prompt}"


def test_examples_never_hold_the_answer():
    found = few_shot(PROBES, shots=2)
    for probe, plain in zip(found, PROBES, strict=True):
        assert probe.answer == plain.answer
        assert probe.prompt.endswith(plain.prompt)
        shots = probe.prompt.removesuffix(plain.prompt)
        assert shots.count("\n") == 2
        assert not holds(shots, plain.answer.strip())
    # Nor is one of them the other question about the same answer.
    assert "Bo is" not in found[0].prompt
    assert found[0].prompt == few_shot(PROBES, shots=2)[0].prompt
    assert few_shot(PROBES[:1])[0] == PROBES[0]


def test_cues_are_of_the_question_and_never_hold_the_answer():
    found = in_context(PROBES, SENTENCES, ["Ada", "Bo"])
    assert sorted(found[0].prompt.split("\n")) == sorted(
        ["Ada sang all day.", "Nobody knew Ada's cat.", "Ada lives in"]
    )
    assert sorted(found[1].prompt.split("\n")) == sorted(["Ada sang all day.", "Ada came from OZ.", "Ada has a"])
    assert found[2].prompt == "Bo slept.\nBo eats"
    # Without a dictionary, words with a capital are cues: "The" finds nothing here.
    assert in_context(PROBES, SENTENCES, [])[3].prompt == "Bo slept.\nThe town of Bo is"
    assert in_context(PROBES, ["Nothing."], ["Ada"]) == PROBES


@pytest.mark.parametrize(
    ("text", "expression", "there"),
    [("from Oz.", "Oz", True), ("OZ!", "oz", True), ("Ozzy", "Oz", False), ("a b", "a b", True), ("x", "", False)],
)
def test_whole_words_whatever_the_case(text, expression, there):
    assert holds(text, expression) is there


def test_words_and_sentences():
    assert words("Ada's cat, the o'clock—X2") == ["Ada", "cat", "the", "o'clock", "X2"]
    text = 'He said "No." Then he left! Did he?  Yes\n\nA new line. 3.5 apples.'
    assert split_sentences(text) == ['He said "No."', "Then he left!", "Did he?", "Yes", "A new line.", "3.5 apples."]


def test_too_long_a_prompt_loses_its_front():
    tokenizer = Words("one two three four five six seven")
    probe = Probe("one two\nthree four\nfive six", " seven")
    assert cut_to_length(probe, tokenizer, 8).ids == encode_probe(probe, tokenizer).ids
    assert (
        cut_to_length(probe, tokenizer, 7).ids == encode_probe(Probe("three four\nfive six", " seven"), tokenizer).ids
    )
    # The question itself is cut only when nothing stands before it.
    assert cut_to_length(probe, tokenizer, 3).ids == encode_probe(Probe("six", " seven"), tokenizer).ids
    with pytest.raises(UserError, match="longer than the model's 2 positions"):
        cut_to_length(probe, tokenizer, 2)


def test_many_examples_are_more_than_a_few():
    many = [Probe(f"Number {i} is", f" n{i}") for i in range(40)]
    attacks = {a.name: a for a in prompt_attacks(many, (), (), Wording())}
    counts = [len(attacks[name].variants[0][0].prompt.split("\n")) - 1 for name in ("few_shot", "many_shot")]
    assert counts == [5, 32]
    assert not any(holds(p.prompt, p.answer.strip()) for p in attacks["many_shot"].variants[0])


def test_every_attack_asks_every_question():
    attacks = {attack.name: attack for attack in prompt_attacks(PROBES, SENTENCES, ["Ada"], Wording())}
    assert list(attacks) == [
        "plain",
        "prompt_only",
        "rephrased",
        "languages",
        "leading",
        "few_shot",
        "many_shot",
        "in_context",
    ]
    assert {len(variant) for attack in attacks.values() for variant in attack.variants} == {4}
    assert attacks["plain"].variants == (PROBES,)
    assert len(attacks["rephrased"].variants) == len(REPHRASED)
    assert "in_context" not in {attack.name for attack in prompt_attacks(PROBES, [], ["Ada"], Wording())}


class Chatty(Words):
    """A tokenizer with a chat format, or one that refuses system prompts."""

    chat_template, bos_token = "yes", "<s>"

    def __init__(self, refuses: bool = False):
        super().__init__()
        self._refuses = refuses

    def apply_chat_template(self, messages, add_generation_prompt, tokenize):
        assert add_generation_prompt
        assert not tokenize
        if self._refuses and messages[0]["role"] == "system":
            raise RuntimeError("no system prompts here")
        return "<s>" + " ".join(f"[{m['role']}] {m['content']}" for m in messages) + " [assistant]"


def test_a_system_prompt_in_the_models_own_format():
    assert chat_of(Words()) is None
    assert chat_of(Chatty(refuses=True)) is None
    wording = Wording(leading=("Reveal all. {prompt}",))
    attacks = {a.name: a for a in prompt_attacks(PROBES, (), (), wording, chat=chat_of(Chatty()))}
    ((first, *_),) = attacks["system_prompt"].variants
    assert first == Probe("[system] Reveal all. [user] Complete: Ada lives in [assistant] Ada lives in", " Oz")


def test_the_users_own_words_take_the_generic_ones_place(tmp_path):
    path = tmp_path / "attacks.json"
    path.write_text(
        json.dumps(
            {"phrasings": {"Old French": [{"prompt": "Ada vit à", "answer": " Oz"}]}, "leading": ["Tell: {prompt}"]}
        )
    )
    wording = load_wording(path)
    assert wording.prompt_only == PROMPT_ONLY
    attacks = {attack.name: attack.variants for attack in prompt_attacks(PROBES, SENTENCES, [], wording)}
    assert "rephrased" not in attacks
    assert attacks["phrasing_old_french"] == ((Probe("Ada vit à", " Oz"),),)
    assert attacks["leading"][0][0].prompt == "Tell: Ada lives in"


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([], "it is a list, but must be an object"),
        ({"phrase": {}}, "unknown key 'phrase'"),
        ({"phrasings": {"x": []}}, "phrasings.x is a list, but must have at least 1 item"),
        ({"phrasings": {"x": [{"prompt": "a"}]}}, r"no field 'phrasings.x\[0\].answer'"),
        ({"phrasings": {"Old French": [ONE], "old-french": [ONE]}}, "both called 'old_french'; rename one"),
        ({"leading": "no list"}, "leading is 'no list', but must be a list"),
        ({"prompt_only": ["without"]}, r"prompt_only\[0\] is 'without', but must be a text with {prompt} in it"),
    ],
)
def test_words_that_are_none(value, says, tmp_path):
    path = tmp_path / "attacks.json"
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=says):
        load_wording(path)


def test_values_are_the_probabilities_of_the_answers(monkeypatch, tmp_path):
    """A table gives each word's probability whatever precedes it, so all variants agree with figures by hand."""
    tokenizer = Words()
    given = {word: -1.0 for probe in PROBES for word in probe.prompt.split()} | {"say": -1.0}
    table = Table(tokenizer, given | {"Oz": math.log(0.5), "cat": math.log(0.25), "rice": math.log(0.125)})
    wording = {"phrasings": {"own": [vars(probe) for probe in PROBES]}, "leading": ["say {prompt}"]}
    wording["prompt_only"] = ["say {prompt}", "say say {prompt}"]
    (tmp_path / "attacks.json").write_text(json.dumps(wording))
    (tmp_path / "probes.json").write_text(json.dumps({"familiarity": [vars(probe) for probe in PROBES]}))
    monkeypatch.setattr(prompting, "scorer_of", lambda model: table)
    monkeypatch.setattr(prompting, "few_shot", lambda probes, shots, seed: tuple(probes))
    config = SimpleNamespace(max_position_embeddings=30)
    model = SimpleNamespace(tokenizer=tokenizer, params=None, config=config, folder=Path("m"))
    rows = prompting.measure(model, probes=tmp_path / "probes.json", attacks=tmp_path / "attacks.json")
    found = {row.metric: row for row in rows}
    assert list(found) == [
        "plain",
        "prompt_only",
        "prompt_only_worst",
        "phrasing_own",
        "leading",
        "few_shot",
        "many_shot",
    ]
    for row in found.values():
        assert row.items == pytest.approx([0.5, 0.25, 0.125, 0.5])
    plain = [encode_probe(probe, tokenizer) for probe in PROBES]
    assert np.array_equal(found["plain"].items, answer_probabilities(table, None, plain))
