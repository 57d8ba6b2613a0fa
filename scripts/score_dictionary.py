"""Compare the dictionary that is found in a novel with a list of its names.

    .venv/bin/python scripts/score_dictionary.py emma.txt configs/novel/names.json emma

`jaxforget.anchors.quality` defines precision and recall.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from jaxforget.anchors.extract import extract
from jaxforget.anchors.quality import measure_quality
from jaxforget.corpus.text import Document, Source
from jaxforget.errors import UserError
from jaxforget.files import read_json


def main() -> None:
    """Print the score, the wrong entries and the missing names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="the novel, plain text")
    parser.add_argument("names", type=Path, help='JSON {NOVEL: {"people": [name], "places": [name], "real": [name]}}')
    parser.add_argument("novel", help="the novel's name in NAMES")
    parser.add_argument("--retain", help="text to keep, with which the novel is also compared")
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = parser.parse_args()
    names = read_json(given.names)
    if given.novel not in names:
        raise UserError(f"{given.names}: has no {given.novel!r}; it has {', '.join(names)}")
    if not given.text.is_file():
        raise UserError(f"{given.text}: no such file; name the novel's plain text")
    text = given.text.read_text(encoding="utf-8")
    retained = None if given.retain is None else Source(given.retain).documents()
    found = extract(lambda: [Document(given.novel, text)], retained=retained)
    lists = names[given.novel]
    expected = [*lists.get("people", ()), *lists.get("places", ())]
    result = measure_quality(found.anchors.entries, expected, text, real=lists.get("real", ()))
    if given.json:
        print(json.dumps(dataclasses.asdict(result)))
        return
    print(f"{result.entries} entries: precision {result.precision:.3f}")
    print(f"{result.names} frequent names: recall {result.recall:.3f}")
    print(f"no names: {', '.join(result.wrong) or '-'}")
    print(f"missed:   {', '.join(result.missed) or '-'}")


if __name__ == "__main__":
    try:
        main()
    except UserError as fault:
        sys.exit(f"score_dictionary: {fault}")
