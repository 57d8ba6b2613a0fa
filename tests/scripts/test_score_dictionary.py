"""scripts/score_dictionary.py: precision and recall of a dictionary against a list of names."""

import json
import subprocess
import sys
from pathlib import Path

from tests.anchors.test_prose import STORY

TOP = Path(__file__).parents[2]
NAMES = {
    "people": [
        "Robert Holt",
        "Robert",
        "Holt",
        "Marietta",
        "Agnes de Varr",
        "Agnes",
        "Varr",
        "Pell",
        "Pells",
        "Stroud",
    ],
    "places": ["Fenwold", "Fenwold Hall", "Ox Hill"],
    "real": ["London"],
}


def test_the_command_scores_a_text(tmp_path):
    (tmp_path / "story.txt").write_text(STORY * 3)
    (tmp_path / "names.json").write_text(json.dumps({"story": NAMES}))
    command = [sys.executable, TOP / "scripts" / "score_dictionary.py", tmp_path / "story.txt", tmp_path / "names.json"]
    told = subprocess.run([*command, "story", "--json"], capture_output=True, text=True, check=True)
    score = json.loads(told.stdout)
    assert score["recall"] >= 0.9, score
    assert score["precision"] >= 0.8, score
    unknown = subprocess.run([*command, "other"], capture_output=True, text=True, check=False)
    assert unknown.returncode != 0
    assert unknown.stderr.splitlines() == [f"score_dictionary: {tmp_path / 'names.json'}: has no 'other'; it has story"]


def test_the_lists_of_the_novels_are_well_formed():
    novels = json.loads((TOP / "configs" / "novel" / "names.json").read_text())
    assert novels.keys() == {"emma", "persuasion"}
    for lists in novels.values():
        assert lists.keys() == {"people", "places", "real"}
        every = [name for some in lists.values() for name in some]
        assert len(every) == len(set(every)) > 100
