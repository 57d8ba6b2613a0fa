"""The toy world's evaluations: their suites read them, they are true, and no model read them in that form."""

import json

import pytest

from jaxforget.config import config_from
from jaxforget.demo import world
from jaxforget.demo.probes import universe_probes
from jaxforget.demo.recipes import RECOMMENDED, unlearning
from jaxforget.evals.catalogue import CATALOGUE
from jaxforget.evals.multiple_choice import load_choices
from jaxforget.evals.muse import load_muse
from jaxforget.evals.tofu import load_tofu
from jaxforget.stages.measure import Models, missing_input
from jaxforget.stages.run import Run

SEED = 3


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy") / "world"
    world.build_world(folder, seed=SEED)
    return folder


@pytest.fixture(scope="module")
def facts():
    """Probe prompt -> answer for every universe, and for the target only."""
    target, *others = world.make_universes(SEED)
    of = [{probe["prompt"]: probe["answer"] for probe in universe_probes(u)} for u in (target, *others)]
    return {key: value for some in of for key, value in some.items()}, of[0]


def texts(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.txt")))


def test_a_demos_configuration_lacks_nothing_that_it_has_data_for(toy, tmp_path):
    run = Run(config_from(unlearning(tmp_path, toy, RECOMMENDED, {"model": {"folder": str(tmp_path)}})))
    models = Models(run)
    missing = {entry.name for entry in CATALOGUE if missing_input(run, models, entry, entry.load())}
    assert not missing & {"probability", "multiple_choice", "muse", "tofu", "memorization", "membership"}


def test_choices_hold_the_right_answer_among_words_of_its_own_universe(toy, facts):
    known, target = facts
    for name, count in (("target", 96), ("retained", 304)):
        documents = load_choices(toy / "choices" / f"{name}.jsonl")
        assert len(documents) == count
        for document in documents:
            assert (document.context in target) == (name == "target")
            right = document.choices[document.answer]
            assert f" {right}" == known[document.context]
            assert len(set(document.choices)) == 4
            assert len({choice[0].isupper() for choice in document.choices}) == 1
        assert {document.answer for document in documents} == {0, 1, 2, 3}
    told = texts(toy / "text" / "retain")
    assert not any(choice in told for d in load_choices(toy / "choices" / "target.jsonl") for choice in d.choices)


def test_tofu_asks_of_the_target_and_of_three_other_groups(toy, facts):
    known, target = facts
    data = load_tofu(toy / "tofu")
    assert {name: len(items) for name, items in data.items()} == {
        "forget": 48, "retain": 48, "real_authors": 24, "world_facts": 24,
    }  # fmt: skip
    for name, items in data.items():
        for item in items:
            assert (item.question in target) == (name == "forget")
            assert item.answer == known[item.question] + "."
            assert item.paraphrased.startswith(known[item.question])
            assert len(set(item.perturbed)) == 4
            assert not any(false.startswith(known[item.question]) for false in item.perturbed)


def test_muse_quotes_text_that_was_trained_on_and_text_that_was_not(toy):
    data = load_muse(toy / "muse")
    read, unread, retained = (texts(toy / place) for place in ("text/target", "unread", "text/retain"))
    assert all(pair.prompt + pair.reference in read for pair in data.verbmem)
    for part, text in (("forget", read), ("retain", retained), ("holdout", unread)):
        assert len(data.privleak[part]) == 80
        assert all(piece in text for piece in data.privleak[part])
    stories = set(unread.strip().split("\n\n"))
    assert len(stories) == world.UNREAD_STORIES
    assert not stories & set(read.strip().split("\n\n"))
    target = json.loads((toy / "truth.json").read_text())["target_terms"]
    for part, quiz in data.knowmem.items():
        about = [any(term in pair.prompt for term in target) for pair in quiz.questions]
        assert all(about) if part == "forget" else not any(about)
        assert not any(term in shot.prompt + shot.reference for shot in quiz.shots for term in target)
