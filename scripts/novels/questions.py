"""Questions of scripts/novel that the program makes: cloze probes, and multiple choice from the written questions."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

from jaxforget.evals.cloze import cloze_probes
from jaxforget.files import read_json, write_json, write_text
from novels.texts import Texts

CHOICES = 4


def write_questions(texts: Texts, excerpts: Path, configs: Path, folder: Path) -> None:
    """Write `folder`/cloze.json and `folder`/choices.jsonl.

    Args:
      texts: the names of the novels, and the seed.
      excerpts: the excerpts that base read.
      configs: holds questions.json and names.json.
      folder: receives the files.
    """
    names, cloze = read_json(configs / "names.json"), {}
    for kind, part, novel in (("familiarity", "target", texts.target), ("retained", "retain", texts.retain)):
        text = (excerpts / part / f"{novel}.txt").read_text(encoding="utf-8")
        lists = names.get(novel, {})  # real names, such as London, are no knowledge of the novel
        known = [*lists.get("people", ()), *lists.get("places", ())]
        cloze[kind] = [dataclasses.asdict(probe) for probe in cloze_probes(text, known, seed=texts.seed)]
    write_json(folder / "cloze.json", cloze)
    records = choices(read_json(configs / "questions.json")["familiarity"], texts.seed)
    write_text(folder / "choices.jsonl", "".join(json.dumps(record) + "\n" for record in records))


def choices(questions: list[dict[str, str]], seed: int) -> list[dict[str, Any]]:
    """Return questions as multiple choice: the wrong choices are answers of the same kind to other questions."""
    rng, records = random.Random(seed), []
    for question in questions:
        right = question["answer"]
        kind = {other["answer"] for other in questions if other["kind"] == question["kind"]}
        # A longer form of the right answer, or a part of it, would not be wrong.
        wrong = sorted(other for other in kind if other not in right and right not in other)
        if len(wrong) < CHOICES - 1:
            continue
        offered = [right, *rng.sample(wrong, CHOICES - 1)]
        rng.shuffle(offered)
        stripped = [choice.strip() for choice in offered]
        records.append({"context": question["prompt"], "choices": stripped, "answer": offered.index(right)})
    return records
