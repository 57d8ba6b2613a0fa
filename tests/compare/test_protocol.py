"""A small comparison: two methods, one trial each, two seeds."""

import dataclasses
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

import jaxforget
from jaxforget.compare import protocol
from jaxforget.compare.protocol import compare
from jaxforget.config import config_from
from jaxforget.errors import UserError
from jaxforget.evals.probes import load_probes
from jaxforget.pipeline import run_chain
from jaxforget.stages import forget, reinforce
from jaxforget.stages.folder import locked
from jaxforget.stages.run import Run
from jaxforget.train.loop import Diverged
from tests.tiny_run import settings

MEASURES = {"familiarity", "retained", "perplexity", "target_acc", "margin", "relearned", "int4"}
CHOICES = [
    {"context": "Zorvath met", "choices": ["Quillon", "Ysolda"], "answer": 0},
    {"context": "Quillon slept in", "choices": ["London", "Thornspire"], "answer": 1},
]


def configured(world, folder, **sections):
    evals = {"relearn_steps": 2, "relearn_batch": 8, **sections.pop("evals", {})}
    return config_from(settings(world, folder, evals=evals, **sections))


@pytest.fixture(scope="module")
def compared(tiny_world, tmp_path_factory):
    """The configuration, the result and the stages that ran for it."""
    folder = tmp_path_factory.mktemp("compare")
    (folder / "choices.jsonl").write_text("".join(json.dumps(document) + "\n" for document in CHOICES))
    config = configured(
        tiny_world,
        folder / "out",
        model={"control": str(tiny_world / "control")},
        retain={"path": str(tiny_world / "retain"), "weight": 1.0, "rows": 8},
        evals={"choices": str(folder / "choices.jsonl")},
    )
    return config, compare(config, ["whp", "npo"], [0, 1], 1)


def test_the_result_has_every_measure_of_every_method(compared):
    _, result = compared
    assert set(result) == {"methods", "control", "base", "recommended"}
    assert set(result["methods"]) == {"whp", "npo"}
    assert result["recommended"] in result["methods"]
    for each in (*result["methods"].values(), result["control"], result["base"]):
        assert set(each) >= MEASURES | {"ks_p"}
        assert each["ks_p"] is None  # no data
        for measure in MEASURES - ({"relearned"} if each is result["base"] else set()):
            assert set(each[measure]) == {"mean", "std"}
    assert result["base"]["relearned"] is None
    npo = result["methods"]["npo"]
    assert npo["settings"] == {"method": "npo", "forget.learning_rate": 1e-3, "retain.weight": 1.0}
    assert npo["seconds_per_step"] > 0


def test_the_figures_are_those_of_the_questions_for_the_report(compared, tiny_world):
    config, result = compared
    work = Path(config.out) / "compare" / "seed_0"
    asked = {part: load_probes(work / part / "probes.json") for part in ("validation", "test")}
    everything = load_probes(tiny_world / "probes.json")
    for group in ("familiarity", "retained"):
        halves = [set(getattr(asked[part], group)) for part in asked]
        assert halves[0] | halves[1] == set(getattr(everything, group))
        assert not halves[0] & halves[1]
        assert all(halves)
    model = jaxforget.load(work / "npo" / "npo-learning_rate_0.001-weight_1" / "unlearned")
    rows = jaxforget.evaluate(model, suite="probability", probes=work / "test" / "probes.json")
    value = next(row["value"] for row in rows if row["metric"] == "familiarity")
    first, second = (
        json.loads((work.parent / f"seed_{seed}/test/evals/rows/probability/npo.json").read_text()) for seed in (0, 1)
    )
    values = [next(row["value"] for row in each["rows"] if row["metric"] == "familiarity") for each in (first, second)]
    assert values[0] == pytest.approx(value, rel=1e-5)
    assert result["methods"]["npo"]["familiarity"]["mean"] == pytest.approx(sum(values) / 2)


def test_methods_share_blocks_anchors_and_the_reinforced_model(compared):
    work = Path(compared[0].out) / "compare" / "seed_1"
    trials = [folder for method in ("whp", "npo") for folder in (work / method).iterdir()]
    assert len(trials) == 2
    for trial in trials:
        assert not (trial / "reinforced").exists()
        files = list((work / "shared" / "blocks").rglob("*.array_record*"))
        assert files
        for file in files:
            assert (trial / file.relative_to(work / "shared")).samefile(file)


def test_the_files_show_every_method(compared):
    folder = Path(compared[0].out)
    assert json.loads((folder / "compare.json").read_text()) == compared[1]
    table = (folder / "compare.md").read_text()
    picture = (folder / "compare.svg").read_text()
    ElementTree.fromstring(picture)
    for name in ("base", "control", "whp", "npo"):
        assert re.search(rf"^\| \**{name}\** \|", table, re.M)
        assert f">{name}</text>" in picture
    (whp, npo) = json.loads((folder / "compare" / "trials.json").read_text()).values()
    assert [trial["chosen"] for trial in (*whp, *npo)] == [True, True]
    assert whp[0]["validation"]["relearned"] is None
    assert not math.isnan(npo[0]["score"])


def test_a_second_call_trains_and_measures_nothing(compared, monkeypatch):
    config, result = compared
    before = {path: path.stat().st_mtime_ns for path in Path(config.out).rglob("evals/rows/*/*.json")}

    def never(*_, **__):
        raise AssertionError("a finished trial was trained again")

    for module in (forget, reinforce):
        monkeypatch.setattr(module, "fit", never)
    assert compare(config, ["whp", "npo"], [0, 1], 1) == result
    assert {path: path.stat().st_mtime_ns for path in before} == before
    longer = dataclasses.replace(config, forget=dataclasses.replace(config.forget, max_steps=5))
    with pytest.raises(UserError, match=r"forget\.max_steps changed since; add --again"):
        compare(longer, ["whp", "npo"], [0, 1], 1)


def test_a_trial_that_diverges_is_not_chosen_and_not_repeated(tiny_world, tmp_path, monkeypatch):
    config = configured(tiny_world, tmp_path / "out", anchors={"path": None})
    calls = []

    def diverge(config, stages, **_):
        if "forget" not in stages:
            return run_chain(config, stages, force=True)
        calls.append(config)
        raise Diverged("forget: loss nan")

    monkeypatch.setattr(protocol, "run_chain", diverge)
    for _ in range(2):
        with pytest.raises(UserError, match="methods=npo: every trial diverged; lower forget.learning_rate"):
            compare(config, ["npo"], [0], 2)
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("methods", "seeds", "trials", "message"),
    [
        (["whp", "nop"], [0], 1, "methods=nop: no such method; did you mean npo?"),
        ([], [0], 1, "methods=: names none"),
        (["whp", "whp"], [0], 1, "methods: whp is given twice"),
        (["whp"], [0, 0], 1, "seeds: 0 is given twice"),
        (["whp"], [-1], 1, "seeds=-1: give whole numbers"),
        (["whp"], [0], 13, "trials=13: give a whole number from 1 to 12"),
    ],
)
def test_a_budget_that_cannot_be(methods, seeds, trials, message):
    with pytest.raises(UserError, match=re.escape(message)):
        protocol.check_budget(methods, seeds, trials)


def test_the_folder_is_one_that_a_run_may_fill_and_is_locked_as_a_whole(tiny_world, tmp_path, monkeypatch):
    config = configured(tiny_world, tmp_path / "out")
    monkeypatch.setattr(protocol, "_compare", lambda *given: pytest.fail("the comparison began"))
    with locked(Run(config)), pytest.raises(UserError, match="another command is working in it"):
        compare(config, ["whp"], [0], 1)
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds files that no run wrote"):
        compare(config, ["whp"], [0], 1)
    monkeypatch.setattr(protocol, "_compare", lambda *given: ({}, "the table"))
    monkeypatch.setattr(protocol, "write_picture", lambda *given: None)
    compare(config, ["whp"], [0], 1, force=True)
    (tmp_path / "out" / "thesis.txt").unlink()
    # An earlier comparison is no reason to refuse the folder.
    compare(config, ["whp"], [0], 1)
    assert (tmp_path / "out" / "compare.md").read_text() == "the table"


def test_a_method_that_cannot_run_is_named_before_any_trains(tiny_world, tmp_path):
    config = configured(tiny_world, tmp_path / "out")
    with pytest.raises(UserError, match="method=grad_diff: needs a retain term"):
        compare(config, ["whp", "grad_diff"], [0], 1)
    assert not (tmp_path / "out" / "compare" / "seed_0" / "shared").exists()
