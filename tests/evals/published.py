"""Data sets as tensorflow-datasets prepares them: the published features, records of one's own."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

TEXT = tfds.features.Text()
LETTERS = ["A", "B", "C", "D", "E"]


def features() -> dict[str, dict[str, Any]]:
    """Return the features of every data set, as the library's builders define them."""
    letter = tfds.features.ClassLabel(names=LETTERS)
    arc = {
        "id": TEXT,
        "question": TEXT,
        "choices": tfds.features.Sequence({"text": TEXT, "label": letter}),
        "answerKey": letter,
    }
    return {
        "ai2_arc/ARC-Challenge": arc,
        "ai2_arc/ARC-Easy": arc,
        "super_glue/boolq": {
            "question": TEXT,
            "passage": TEXT,
            "idx": np.int32,
            "label": tfds.features.ClassLabel(names=["False", "True"]),
        },
        "hellaswag": {
            "context": TEXT,
            "endings": tfds.features.Sequence(TEXT),
            "activity_label": TEXT,
            "label": np.int32,
            "split_type": TEXT,
            "source_id": TEXT,
        },
        "openbookqa": {
            "question": {"stem": TEXT, **{f"choice_{letter}": TEXT for letter in "ABCD"}},
            "fact1": TEXT,
            "humanScore": np.float32,
            "clarity": np.float32,
            "turkIdAnonymized": TEXT,
            "answerKey": tfds.features.ClassLabel(names=LETTERS[:4]),
        },
        "piqa": {
            "id": TEXT,
            "goal": TEXT,
            "sol1": TEXT,
            "sol2": TEXT,
            "label": tfds.features.ClassLabel(num_classes=2),
        },
        "winogrande": {
            "sentence": TEXT,
            "option1": TEXT,
            "option2": TEXT,
            "label": tfds.features.ClassLabel(names=["1", "2"]),
        },
    }


def prepare(
    folder: Path, dataset: str, split: str, records: list[dict[str, Any]], version: str = "1.0.0", form="array_record"
) -> None:
    """Writes `records` as the split of a prepared data set in `folder`."""
    name, _, config = dataset.partition("/")

    class Fixture(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        code_path = None  # else the library looks for package files with a package that it may lack
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            known = tfds.features.FeaturesDict(features()[dataset])
            return tfds.core.DatasetInfo(builder=self, features=known, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {split: iter(enumerate(records))}

        def _generate_examples(self):
            raise AssertionError("the splits hold their examples")

    Fixture.name = name
    Fixture(data_dir=folder, file_format=form).download_and_prepare()


# A record of each, and what lm-evaluation-harness makes of the same document (read off its task files by hand).
FIVE = list(zip("vwxyz", LETTERS, strict=True))
HELLASWAG = {"split_type": "indomain", "endings": ["he  sits.", "[step] he runs.", "c", "d"]}
RECORDS: dict[str, list[dict[str, Any]]] = {
    "ai2_arc/ARC-Easy": [
        {"id": "1", "question": "Why?", "choices": [{"text": t, "label": l} for t, l in (("a", "A"), ("no", "B"))],
         "answerKey": "B"},
        {"id": "2", "question": "Who?", "choices": [{"text": t, "label": l} for t, l in FIVE], "answerKey": "E"},
    ],
    "super_glue/boolq": [{"question": "is it so", "passage": "Title -- It is.", "idx": 0, "label": 1}],
    "hellaswag": [
        {**HELLASWAG, "activity_label": "Roof", "context": "A man sits. Then, he ALSO", "label": 2,
         "source_id": "activitynet~v_1"},
        {**HELLASWAG, "activity_label": "Pets", "context": "How to. [title] Wash it. [step] Take soap", "label": 0,
         "source_id": "wikihow~7"},
    ],
    "openbookqa": [
        {"question": {"stem": "Sun is", "choice_A": "hot", "choice_B": "cold", "choice_C": "wet", "choice_D": "é"},
         "fact1": "f", "humanScore": 1.0, "clarity": 1.0, "turkIdAnonymized": "t", "answerKey": "D"},
    ],
    "piqa": [{"id": "1", "goal": "open it", "sol1": "pull", "sol2": "push it", "label": 1}],
    "winogrande": [
        {"sentence": "The cup fits as the _ is big.", "option1": "cup", "option2": "box", "label": 1},
    ],
}  # fmt: skip
RECORDS["ai2_arc/ARC-Challenge"] = RECORDS["ai2_arc/ARC-Easy"]
SPLITS = {name: "test" if "arc" in name or name == "openbookqa" else "validation" for name in RECORDS}
