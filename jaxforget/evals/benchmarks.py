"""Suite `benchmarks`: seven benchmarks from tensorflow-datasets, asked as lm-evaluation-harness asks them, zero-shot.

Prepared data is read from its folder by random access; neither TensorFlow nor the data set's own code is needed.
The published features differ from those that the harness reads in two places:

- BoolQ is SuperGLUE's, as in the harness: its passages begin with their title.
- HellaSwag's features hold the context as one text. The harness has two parts and capitalizes the second. In the rows
  from ActivityNet the second part is the text after the last sentence; the rows from WikiHow have no second part.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxforget.errors import UserError, first_line
from jaxforget.evals.multiple_choice import Document, measure_documents
from jaxforget.evals.rows import Row
from jaxforget.evals.suite import RunInputs, Suite
from jaxforget.lm.model import Model

SENTENCE_END = re.compile(r"[.!?][\"')]*\s+(?=[^.!?]*$)")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Attributes:
      dataset: its name in tensorflow-datasets.
      split: the split that is scored.
      document: makes a document from a record whose text is decoded.
      metrics: the harness's metrics, and acc_bytes where it has acc_norm.
    """

    dataset: str
    split: str
    document: Callable[[Mapping[str, Any]], Document]
    metrics: tuple[str, ...] = ("acc", "acc_norm", "acc_bytes")


def load_benchmark(name: str, folder: str | Path, limit: int | None = None) -> list[Document]:
    """Return the documents of the benchmark `name`, at most the first `limit`.

    Args:
      folder: the data folder of tensorflow-datasets (its data_dir).

    Raises:
      UserError: no such benchmark; not prepared there in array_record form; a split that is missing, empty or
        without answers; features that are not the published ones.
    """
    if name not in BENCHMARKS:
        raise UserError(f"benchmark {name!r}: the benchmarks are {', '.join(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    where = f"{Path(folder) / benchmark.dataset}, split {benchmark.split}"
    source = _open(Path(folder), benchmark)
    documents = []
    for number in range(min(len(source), len(source) if limit is None else limit)):
        try:
            document = benchmark.document(_decoded(source[number]))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(f"{where}: record {number} is not as published: {error!r}; prepare it again") from None
        if not 0 <= document.answer < len(document.choices):
            raise UserError(f"{where}: record {number} has no answer; name a data set whose split has them")
        documents.append(Document(**{**vars(document), "where": f"{where}: record {number}"}))
    if not documents:
        raise UserError(f"{where}: holds no records; an empty split cannot be scored")
    return documents


def _open(folder: Path, benchmark: Benchmark) -> Any:
    """Return the split's records by number."""
    import tensorflow_datasets as tfds  # slow to import, and few suites need it

    place = folder / benchmark.dataset
    versions = [path.parent for path in place.glob("*/dataset_info.json") if re.fullmatch(r"[\d.]+", path.parent.name)]
    build = f"tfds build {benchmark.dataset} --file_format=array_record --data_dir={folder}"
    if not versions:
        raise UserError(f"{place}: no prepared data set; run: {build}")
    newest = max(versions, key=lambda path: [int(part) for part in path.name.split(".")])
    try:
        builder = tfds.builder_from_directory(newest)
    except Exception as error:  # damaged files raise errors of many types
        raise UserError(f"{newest}: cannot be opened: {first_line(error)}; run: {build}") from None
    if benchmark.split not in builder.info.splits:
        raise UserError(
            f"{newest}: no split {benchmark.split!r}; it has {', '.join(builder.info.splits)}; run: {build}"
        )
    try:
        return builder.as_data_source(benchmark.split)
    except (NotImplementedError, AssertionError, FileNotFoundError):
        raise UserError(f"{newest}: not in array_record form; run: {build}") from None


def _decoded(value: Any) -> Any:
    """Return a record with its texts as str and its numbers as int."""
    if isinstance(value, Mapping):
        return {name: _decoded(item) for name, item in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if getattr(value, "ndim", 0):
        return [_decoded(item) for item in value.tolist()]
    if isinstance(value, list | tuple):
        return [_decoded(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def _arc(record: Mapping[str, Any]) -> Document:
    choices = record["choices"]
    answer = choices["label"].index(record["answerKey"])
    return Document(f"Question: {record['question']}\nAnswer:", tuple(choices["text"]), answer)


def _boolq(record: Mapping[str, Any]) -> Document:
    context = f"{record['passage']}\nQuestion: {record['question']}?\nAnswer:"
    return Document(context, ("no", "yes"), int(record["label"]))


def _hellaswag(record: Mapping[str, Any]) -> Document:
    context = record["context"]
    if record["source_id"].startswith("activitynet") and (end := SENTENCE_END.search(context)):
        # The harness's own words for it: lower case but for the first letter.
        context = context[: end.end()].rstrip() + " " + context[end.end() :].capitalize()
    choices = tuple(_plain(ending) for ending in record["endings"])
    return Document(_plain(f"{record['activity_label']}: {context}"), choices, int(record["label"]))


def _plain(text: str) -> str:
    """Without WikiHow's marks in brackets."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _openbookqa(record: Mapping[str, Any]) -> Document:
    question = record["question"]
    choices = tuple(question[f"choice_{letter}"] for letter in "ABCD")
    return Document(question["stem"], choices, int(record["answerKey"]))


def _piqa(record: Mapping[str, Any]) -> Document:
    return Document(f"Question: {record['goal']}\nAnswer:", (record["sol1"], record["sol2"]), int(record["label"]))


def _winogrande(record: Mapping[str, Any]) -> Document:
    before, _, after = record["sentence"].partition("_")
    choices = tuple(before + record[option] for option in ("option1", "option2"))
    return Document("", choices, int(record["label"]), ending=after.strip())


BENCHMARKS = {
    "arc_challenge": Benchmark("ai2_arc/ARC-Challenge", "test", _arc),
    "arc_easy": Benchmark("ai2_arc/ARC-Easy", "test", _arc),
    "boolq": Benchmark("super_glue/boolq", "validation", _boolq),
    "hellaswag": Benchmark("hellaswag", "validation", _hellaswag),
    "openbookqa": Benchmark("openbookqa", "test", _openbookqa),
    "piqa": Benchmark("piqa", "validation", _piqa),
    # The same words end every sentence: there is nothing to divide by.
    "winogrande": Benchmark("winogrande", "validation", _winogrande, metrics=("acc",)),
}


def measure(model: Model, *, data: Mapping[str, Path], limit: int | None = None) -> list[Row]:
    """Measure benchmarks; their metrics are {name}_acc and so on.

    Args:
      model: the model.
      data: the prepared data set's folder of each benchmark, by the benchmark's name.
      limit: documents of each, at most.
    """
    rows = []
    for name, place in data.items():
        folder = place.parents[BENCHMARKS[name].dataset.count("/")]
        found = measure_documents(load_benchmark(name, folder, limit), model, metrics=BENCHMARKS[name].metrics)
        rows += [dataclasses.replace(row, metric=f"{name}_{row.metric}") for row in found]
    return rows


def options(run: RunInputs) -> dict[str, Any]:
    """Return the options of `measure` for a run."""
    names = [name.strip() for name in run.config.evals.benchmarks.split(",") if name.strip()]
    for name in names:
        if name not in BENCHMARKS:
            raise UserError(f"evals.benchmarks: no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    folder = run.required_path("tfds", "the data folder of tensorflow-datasets", folder=True)
    data = {name: folder / BENCHMARKS[name].dataset for name in names}
    return {"data": data, "limit": run.config.evals.benchmark_documents}


SUITE = Suite("ARC, BoolQ, HellaSwag, OpenBookQA, PIQA, WinoGrande, zero-shot", measure, options)
