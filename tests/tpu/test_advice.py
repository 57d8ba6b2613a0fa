"""Options that would save memory, as a stand-in for the compiler judges them."""

import pytest

from jaxforget.sharding import make_mesh
from jaxforget.tpu import plan as planning
from jaxforget.tpu.advice import candidates
from jaxforget.tpu.plan import plan
from jaxforget.tpu.table import as_text
from tests.tpu.tiny import memory_of, model_folder, tiny_config

GIB = 2**30
SMALLEST = "model.base=int8 reinforce.weights=lora forget.weights=lora"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("plan") / "model")


def test_advice_tries_each_option_and_says_what_it_buys(model, monkeypatch):
    monkeypatch.setattr(planning, "_compile", lambda config, *_, read=True: memory_of(config, GIB, 8 * GIB))
    config = tiny_config(model, "targets.tile=1024", "model.remat=none")
    [row] = plan(config, ["v5e-8"], steps=["forget"])
    assert not row["fits"]
    found = {" ".join(option["options"]): (option["fits"], option["saved_bytes"] / GIB) for option in row["options"]}
    every = "forget.accumulate=2 model.remat=full targets.tile=256 forget.moment_dtype=bfloat16"
    assert found == {
        "forget.accumulate=2": (False, 8),
        "model.remat=dots": (False, 0),
        "model.remat=mlp": (False, 0),
        "model.remat=full": (False, 0),
        "targets.tile=256": (False, 0),
        "forget.moment_dtype=bfloat16": (False, 1),
        every: (True, 9),
        "targets.cache=true": (False, 0),
        "reinforce.weights=int8-delta": (False, 0),
        "model.base=int8": (False, 0),
        "forget.weights=lora": (False, 0),
        SMALLEST: (False, 0),
    }
    effects = {" ".join(option["options"]): option["effect"] for option in row["options"]}
    assert effects["model.remat=full"] is None
    assert "rounded to bfloat16" in effects[every]
    assert "set forget.learning_rate near 1e-4" in effects["forget.weights=lora"]
    text = as_text([row])
    assert "  with model.remat=full: saves 0 GiB and does not fit" in text
    assert text.index("options that change more than time") < text.index("with model.base=int8")
    assert row["preset"] is None
    row["options"][3]["saved_bytes"] = -GIB
    assert "  with model.remat=full: takes 1.00 GiB more and does not fit" in as_text([row])
    assert "options" not in plan(config, ["v5e-8"], steps=["forget"], advise=False)[0]
    # What is set already is not proposed again.
    words = ("forget.weights=lora", "reinforce.weights=lora", "model.base=int8", "forget.moment_dtype=bfloat16")
    [row] = plan(tiny_config(model, *words, "targets.tile=256"), ["v5e-8"], steps=["forget"])
    assert [option["options"] for option in row["options"]] == [["forget.accumulate=2"], ["targets.cache=true"]]


@pytest.mark.parametrize(
    ("words", "step", "smallest"),
    [
        (("model.reinforced=x",), "forget", {"model.base": "int8", "forget.weights": "lora"}),
        (("targets.cache=true",), "forget", {"model.base": "int8", "forget.weights": "lora"}),
        (("targets.cache=true", "forget.weights=lora"), "forget", {"model.base": "int8"}),
        ((), "forget", dict(word.split("=") for word in SMALLEST.split())),
        ((), "reinforce", {"model.base": "int8", "reinforce.weights": "lora"}),
    ],
)
def test_advice_proposes_only_what_the_run_would_take(model, words, step, smallest):
    found = candidates(tiny_config(model, *words), make_mesh(), step)
    assert found[-1].changes == smallest
    assert len({str(option.changes) for option in found}) == len(found)
    if "reinforce.weights" not in smallest:
        assert "reinforce.learning_rate" not in str(found[-1].effect)
