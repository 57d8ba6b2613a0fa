"""A small dictionary with evidence, as in a run's folder."""

import json
from pathlib import Path

from jaxforget.anchors.review.edits import Review

EVIDENCE = {"kind": "person", "count": 9, "contrast": 12.5}
ENTRIES = {
    "Brindle Mox": {"generic": ["Peter Green"], **EVIDENCE},
    "Zorvath": {"generic": ["Kate", "Paul"], **EVIDENCE},
    "Quillon": ["Anna"],
    "wand": {"generic": ["staff", "stick"], **EVIDENCE},
}


def make_review(folder: Path, entries: dict = ENTRIES) -> Review:
    """Write the dictionary into `folder` and return its review."""
    path = folder / "anchors.json"
    path.write_text(json.dumps(entries))
    return Review(path, folder / "anchors.review.json")
