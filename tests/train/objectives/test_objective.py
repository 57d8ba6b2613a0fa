"""The interface of an objective: it declares what the step and the stages call, so that none of them names a method."""

import re
from pathlib import Path

import pytest

import jaxforget
from jaxforget.train.objectives import METHODS, NextToken, Objective

LIBRARY = Path(jaxforget.__file__).parent


def test_no_other_module_names_the_class_of_a_method():
    names = re.compile(rf"\b({'|'.join(kind.__name__ for kind in METHODS.values())})\b")
    found = [
        f"{path.relative_to(LIBRARY)}: {line.strip()}"
        for path in LIBRARY.rglob("*.py")
        if "objectives" not in path.parts
        for line in path.read_text(encoding="utf-8").splitlines()
        if names.search(line)
    ]
    assert not found


@pytest.mark.parametrize("name", ["generic_label", "target", "next_multiplier", "weights", "row_loss"])
def test_a_part_that_only_some_methods_have_is_refused_by_the_others(name):
    arguments = {"next_multiplier": 2, "weights": 2, "row_loss": 3}.get(name, 1)
    with pytest.raises(NotImplementedError, match="objective next_token"):
        getattr(NextToken(), name)(*[None] * arguments)


def test_the_neutral_parts():
    objective = NextToken()
    assert objective.uncached() is objective
    assert objective.never == ()
    assert objective.trained({"embed": 1}) == {"embed": 1}


def test_every_part_that_a_method_overrides_is_documented():
    for part in vars(Objective):
        if not part.startswith("_") and callable(getattr(Objective, part)):
            assert getattr(Objective, part).__doc__, part
