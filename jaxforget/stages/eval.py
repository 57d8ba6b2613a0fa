"""Stage `eval`: the evidence of a run, what its models say, and one passage with its labels."""

from typing import Any

import jax
import numpy as np

from jaxforget.corpus.loader import collate, open_blocks, read_summary
from jaxforget.corpus.translate import Translator, block_rng
from jaxforget.evals.probes import load_probes, load_prompts
from jaxforget.evals.watch import measure_ends, moved, prompt_top_tokens
from jaxforget.files import read_json, write_json
from jaxforget.lm.completion import complete
from jaxforget.lm.forward import make_forward
from jaxforget.lm.model import load, load_delta
from jaxforget.lm.scoring import Scorer
from jaxforget.sharding import put_rows, row_shards
from jaxforget.stages.hashes import hash_followed
from jaxforget.stages.page_details import PASSAGE_MODELS, add_answers, add_token_probabilities, questions_of_page
from jaxforget.stages.prepare import read_dictionary
from jaxforget.stages.questions import questions_of
from jaxforget.stages.run import Run, fetch
from jaxforget.stages.stage import Needs, Stage
from jaxforget.stages.suites.catalogue import PROBABILITY, SUITES
from jaxforget.stages.suites.probability import CONVENTIONS
from jaxforget.stages.suites.suite import Models, compared, measure_model, write_table
from jaxforget.train.objectives.whp import Whp
from jaxforget.train.step import StepOptions, make_label_step
from jaxforget.train.types import Frozen


def needs(run: Run) -> Needs:
    """Return the inputs: the questions, and every model of the tables with its tokenizer."""
    evals, models = run.config.evals, compared(run)
    return Needs(
        ("forget",),
        texts={"evals.heldout": run.heldout},
        files={"evals.probes": evals.probes, "evals.prompts": evals.prompts},
        models={f"model {name}": folder for name, folder in models.items()},
        tokenizers={f"tokenizer {name}": folder for name, folder in models.items()},
    )


def evaluate(run: Run) -> None:
    """Measure every model of the run beside the others.

    Writes evals/summary.json, completions.json, passage.json and questions.json.
    """
    prompts = load_prompts(run.config.evals.prompts).completions
    probes = load_probes(run.config.evals.probes)
    questions = questions_of_page(probes)
    models = Models(run)
    block = passage(run)
    completions: list[dict[str, Any]] = [{"prompt": prompt, "completions": {}} for prompt in prompts]
    missing = PROBABILITY.lacks(run)
    if missing:
        run.say(f"  probability: left out: {missing}")
    for name in models:
        if not missing:
            measure_model(run, models, name, [PROBABILITY])
        texts = complete(models[name], list(prompts), run.config.evals.completion_tokens) if prompts else []
        for item, text in zip(completions, texts, strict=True):
            item["completions"][name] = text
        add_answers(run, models[name], name, probes, questions)
        if name in PASSAGE_MODELS:
            add_token_probabilities(run, models[name], name, block["tokens"])
    _write(run, "completions", {"prompts": completions})
    _write(run, "passage", block)
    _write(run, "questions", {"questions": questions})
    follow(run, models)
    rows = write_table(run, SUITES, models)
    for line in table([row for row in rows if row["metric"] in CONVENTIONS]):
        run.say(f"  {line}")


def follow(run: Run, models: Models) -> None:
    """Where the questions have changed since the model forgot: curve.json and dynamics.json for those of today."""
    config, asked = run.config, hash_followed(run)
    if not (names := moved(run.folder, asked)):
        return
    run.say(
        f"  since forget ran, {', '.join(sorted(names))} changed: only the ends of what rests on it are measured anew"
    )
    base = models["base"]
    scorer = Scorer(make_forward(base.module), run.mesh, batch=config.evals.batch, tile=config.targets.tile)
    probes, prompts = load_probes(config.evals.probes), load_prompts(config.evals.prompts)
    questions = questions_of(config, probes, prompts, base.tokenizer)
    references = {
        name: prompt_top_tokens(scorer, models[name].params, questions, base.tokenizer)
        for name in ("base", "control")
        if name in models
    }
    ends = {0: models["base"].params, read_json(run.unlearned / "steps.json")["steps"]: models["unlearned"].params}
    measure_ends(run.folder, scorer, questions, base.tokenizer, ends, references, asked)


def passage(run: Run) -> dict[str, Any]:
    """One block of the target with the generic label under each word, from the step's own label function."""
    config = run.config
    split = "validation" if read_summary(run.blocks)["splits"]["validation"] else "train"
    records = open_blocks(run.blocks, split)
    # The block with the most suppressed words is one with many anchors.
    number = max(range(min(len(records), 64)), key=lambda i: len(records[i]["suppress_ids"]))
    record = records[number]
    base = load(run.base, config.model.dtype, run.mesh, attention=config.model.attention, form=config.model.base)
    form = "int8-delta" if config.reinforce.weights == "int8-delta" else "full"
    reinforced = load_delta(run.reinforced, base, config.model.dtype, form)
    rows = row_shards(run.mesh)
    batch = collate([record], [read_summary(run.blocks)], rows)
    options = StepOptions(tile=config.targets.tile)
    step = make_label_step(make_forward(base.module), Whp(alpha=config.targets.alpha), options, run.mesh)
    labels = fetch(step(Frozen(base.params, reinforced), put_rows(batch, run.mesh)))[0]
    tokens = np.asarray(record["tokens"])
    translator = Translator(read_dictionary(run), base.tokenizer, match=config.anchors.match)
    anchored = np.zeros(len(tokens), bool)
    for start, length, _ in translator.translate(tokens, block_rng(0, 0)).spans:
        anchored[start : start + length] = True
    pieces = base.tokenizer.convert_ids_to_tokens
    return {
        "document": f"{config.corpus.path}, block {number} of {split}",
        "tokens": [
            {
                "text": pieces(int(token)),
                "label": None if label < 0 else pieces(int(label)),
                "anchor": bool(anchor),
            }
            for token, label, anchor in zip(tokens, labels, anchored, strict=False)
        ],
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of a table: a row a model, a column a metric; counts stay whole numbers."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    models = list(dict.fromkeys(row["model"] for row in rows))
    values = {(row["model"], row["metric"]): row["value"] for row in rows}
    width = max((len(model) for model in models), default=0)
    lines = [f"{'':{width}}  " + "  ".join(f"{metric:>11}" for metric in metrics)] if rows else []
    for model in models:
        cells = (_cell(values.get((model, metric))) for metric in metrics)
        lines.append(f"{model:{width}}  " + "  ".join(f"{cell:>11}" for cell in cells))
    return lines


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _write(run: Run, name: str, value: dict[str, Any]) -> None:
    if jax.process_index() == 0:
        write_json(run.evals / f"{name}.json", value)


STAGE = Stage(
    "eval",
    needs,
    lambda run, _: evaluate(run),
    lambda run: [run.evals / f"{name}.json" for name in ("summary", "completions", "passage", "questions")],
)
