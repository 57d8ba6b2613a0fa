"""Which option a fault speaks of, told by the place that it begins with."""

import pytest

from jaxforget.config import config_from, naming_options
from jaxforget.config.places import option_of
from jaxforget.errors import UserError

CONFIG = config_from(
    {
        "out": "runs/x",
        "model": {"folder": "runs/llama/", "reinforced": "runs/llama/more"},
        "corpus": {"path": "texts"},
        "retain": {"path": "wiki"},
        "evals": {"compare": {"other": "owner/name"}, "probes": "text"},
    }
)


@pytest.mark.parametrize(
    ("fault", "option"),
    [
        ("texts: no such file", "corpus.path"),
        ("texts/a.txt: not UTF-8", "corpus.path"),
        ("text: no such file", "evals.probes"),
        ("textures/a: no such file", None),
        ("runs/llama/config.json: no such file", "model.folder"),
        ("runs/llama/more/config.json: no such file", "model.reinforced"),
        ("tfds:wiki[train]:3: no field", "retain.path"),
        ("owner/name: no such folder", "evals.compare.other"),
        ("runs/x/manifest.json: not JSON", None),
        ("corpus.path=texts: read already", None),
    ],
)
def test_the_longest_place_that_a_fault_begins_with(fault, option):
    assert option_of(fault, CONFIG) == option


def test_a_fault_keeps_its_kind_and_others_pass():
    class Special(UserError):
        pass

    with pytest.raises(Special, match=r"^corpus\.path: texts: empty$"), naming_options(CONFIG):
        raise Special("texts: empty")
    with pytest.raises(UserError, match="^seed: odd$"), naming_options(CONFIG):
        raise UserError("seed: odd")
    with pytest.raises(OSError, match="^texts: gone$"), naming_options(CONFIG):
        raise OSError("texts: gone")


@pytest.mark.parametrize("name", ["forget", "export"])
def test_a_place_called_as_a_stage_is_no_fault_of_its_own(name):
    config = config_from({"corpus": {"path": name}})
    assert option_of(f"{name}: loss nan at step 3", config) is None
    assert option_of(f"{name}/a.txt: not UTF-8", config) is None
