"""The result of a comparison from made-up figures: means, the recommended method, the table and the picture."""

import statistics
from xml.etree import ElementTree

import pytest

from jaxforget.compare.measures import MEASURES
from jaxforget.compare.picture import picture
from jaxforget.compare.table import conclude, markdown

SETTINGS = {name: {"method": name} for name in ("blunt", "gentle", "good")}


def figures(familiarity, retained, margin, **more):
    return {
        **dict.fromkeys(MEASURES),
        "familiarity": familiarity,
        "retained": retained,
        "perplexity": 10.0,
        "margin": margin,
        **more,
    }


def seeds():
    return [
        {
            "base": figures(0.9, 0.8, 9.0 + seed),
            "control": figures(0.0, 0.8, 0.0),
            "blunt": figures(0.0, 0.1 + 0.1 * seed, 0.0, ks_p=0.5),
            "gentle": figures(0.01, 0.8, 5.0, ks_p=1e-9),
            "good": figures(0.02, 0.79, 0.5 + seed, ks_p=0.2),
        }
        for seed in range(3)
    ]


def test_means_deviations_and_the_recommended_method():
    result = conclude(seeds(), SETTINGS, {"blunt": 1.0, "gentle": 2.0, "good": None})
    assert result["recommended"] == "good"
    good = result["methods"]["good"]
    assert good["margin"] == {"mean": 1.5, "std": pytest.approx(statistics.stdev([0.5, 1.5, 2.5]))}
    assert good["ks_p"] == [0.2, 0.2, 0.2]
    assert good["int4"] is None
    assert good["seconds_per_step"] is None
    assert result["control"]["ks_p"] is None
    one = conclude(seeds()[:1], SETTINGS, dict.fromkeys(SETTINGS))
    assert one["methods"]["good"]["margin"] == {"mean": 0.5, "std": 0.0}


def test_no_method_is_better_than_the_recommended_one_at_both():
    measured = seeds()
    for each in measured:
        each["best"] = figures(0.005, 0.795, 0.2)
    result = conclude(measured, {**SETTINGS, "best": {}}, dict.fromkeys([*SETTINGS, "best"]))
    assert result["recommended"] == "best"


def test_a_method_that_diverged_on_a_seed_has_no_figures():
    measured = seeds()
    del measured[1]["good"]
    result = conclude(measured, SETTINGS, dict.fromkeys(SETTINGS))
    assert result["methods"]["good"]["familiarity"] is None
    assert result["methods"]["good"]["ks_p"] == [0.2, None, 0.2]
    assert result["recommended"] == "gentle"
    assert "| good |" in markdown(result, [0, 1, 2], 12)
    assert ">good</text>" not in picture(result)


def test_the_table_names_what_is_recommended():
    table = markdown(conclude(seeds(), SETTINGS, {"blunt": 1.0, "gentle": 2.0, "good": 3.0}), [0, 1, 2], 4)
    lines = table.splitlines()
    assert sum(line.startswith("|") for line in lines) == 2 + 5
    assert len({line.count("|") for line in lines if line.startswith("|")}) == 1
    assert "Recommended: **good**." in lines
    assert "| **good** | 0.0200 ± 0.0000 | 0.790 ± 0.0000 |" in table
    assert "seeds 0, 1, 2; at most 4 trials" in table


def test_the_picture_shows_intervals_and_works_without_a_control_or_a_margin():
    result = conclude(seeds(), SETTINGS, dict.fromkeys(SETTINGS))
    drawn = ElementTree.fromstring(picture(result))
    assert len(drawn.findall("{http://www.w3.org/2000/svg}svg")) == 2
    assert "interval" in picture(result)
    bare = [{name: {**each, "margin": None} for name, each in seed.items() if name != "control"} for seed in seeds()]
    result = conclude(bare, SETTINGS, dict.fromkeys(SETTINGS))
    assert result["control"] is None
    drawn = ElementTree.fromstring(picture(result))
    assert len(drawn.findall("{http://www.w3.org/2000/svg}svg")) == 1
