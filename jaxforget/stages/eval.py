"""Stage `eval`: figures of every model of a run, its completions, and one passage with its labels."""

from typing import Any

import jax
import numpy as np

from jaxforget.corpus.batches import collate, open_blocks, read_summary
from jaxforget.corpus.translate import Translator, block_rng
from jaxforget.evals.catalogue import CATALOGUE
from jaxforget.evals.forgotten import earlier_requests, lines
from jaxforget.evals.probability import QUANTITIES
from jaxforget.evals.probes import load_probes, load_prompts
from jaxforget.evals.scorers import scorer_of
from jaxforget.evals.tables import metric_lines
from jaxforget.evals.watch import changed_questions, measure_ends, prompt_top_tokens
from jaxforget.files import read_json, write_json
from jaxforget.lm.completion import complete
from jaxforget.lm.forward import make_forward
from jaxforget.lm.model import load
from jaxforget.models.tokenizer import load_tokenizer
from jaxforget.processes import fetch
from jaxforget.sharding import put_rows, row_shards
from jaxforget.stages.frozen_models import load_base, load_reinforced
from jaxforget.stages.hashes import hash_followed
from jaxforget.stages.labels import label_objective
from jaxforget.stages.measure import Models, compared_models, measure_model, missing_input, write_table
from jaxforget.stages.page_details import PASSAGE_MODELS, add_answers, add_token_probabilities, questions_of_page
from jaxforget.stages.prepare import read_dictionary
from jaxforget.stages.questions import questions_of
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage
from jaxforget.train.step import StepOptions, make_label_step
from jaxforget.train.types import Frozen


def needs(run: Run) -> Needs:
    """Return the inputs: the questions, and every model of the tables with its tokenizer."""
    evals, models = run.config.evals, compared_models(run)
    earlier = {f"evals.forgotten.{name}": request for name, request in earlier_requests(run.config).items()}
    return Needs(
        run.unlearning,
        texts={"evals.heldout": run.heldout, **{f"{name} text": text for name, (_, text) in earlier.items()}},
        files={
            "evals.probes": evals.probes,
            "evals.prompts": evals.prompts,
            "evals.choices": evals.choices,
            **{f"{name} probes": probes for name, (probes, _) in earlier.items()},
        },
        models={f"model {name}": folder for name, folder in models.items()},
        tokenizers={f"tokenizer {name}": folder for name, folder in models.items()},
        # The suite `forgotten`, which the stage measures, reads as many passages of each earlier text.
        values={"evals.passages": repr(evals.passages)} if earlier else {},
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
    wanted = ("probability", "forgotten") if run.config.evals.forgotten else ("probability",)
    suites = []
    for entry in CATALOGUE:
        if entry.name in wanted:
            suite = entry.load()
            if missing := missing_input(run, models, entry, suite):
                run.say(f"  {entry.name}: left out: {missing}")
            else:
                suites.append((entry, suite))
    for name in models:
        for entry, suite in suites:
            measure_model(run, models, entry, suite, name)
        texts = complete(models[name], list(prompts), run.config.evals.completion_tokens) if prompts else []
        for item, text in zip(completions, texts, strict=True):
            item["completions"][name] = text
        add_answers(run, models[name], name, probes, questions)
        if name in PASSAGE_MODELS:
            add_token_probabilities(run, models[name], name, block["tokens"])
    _write(run, "completions", {"prompts": completions})
    _write(run, "passage", block)
    _write(run, "questions", {"questions": questions})
    measure_changed_questions(run, models)
    rows = write_table(run, models)
    figures: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.metric in QUANTITIES:
            figures.setdefault(row.model, {})[row.metric] = row.value
    for line in [*metric_lines(figures), *lines(rows)]:
        run.say(f"  {line}")


def measure_changed_questions(run: Run, models: Models) -> None:
    """Measure curve.json and dynamics.json again if the questions changed since the stage forget ran."""
    config, inputs = run.config, hash_followed(run)
    if not (names := changed_questions(run.folder, inputs)):
        return
    run.say(
        f"  since forget ran, {', '.join(sorted(names))} changed: the curve is measured again at its first and last "
        "step only"
    )
    base = models["base"]
    scorer = scorer_of(base, config.evals.batch, config.targets.tile)
    probes, prompts = load_probes(config.evals.probes), load_prompts(config.evals.prompts)
    questions = questions_of(config, probes, prompts, base.tokenizer)
    references = {
        name: prompt_top_tokens(scorer, models[name].params, questions, base.tokenizer)
        for name in ("base", "control")
        if name in models
    }
    # The curve is that of the stage forget, whatever followed it.
    last = models["unlearned"]
    if run.undoes:
        last = load(run.forgotten, config.model.dtype, run.mesh, attention=config.model.attention)
    ends = {0: models["base"].params, read_json(run.forgotten / "steps.json")["steps"]: last.params}
    measure_ends(run.folder, scorer, questions, base.tokenizer, ends, references, inputs)


def passage(run: Run) -> dict[str, Any]:
    """Return one block of the target, with the generic label of each token where the method has such labels."""
    config = run.config
    split = "validation" if read_summary(run.blocks)["splits"]["validation"] else "train"
    records = open_blocks(run.blocks, split)
    # The block with the most suppressed words has many anchors.
    number = max(range(min(len(records), 64)), key=lambda i: len(records[i]["suppress_ids"]))
    record = records[number]
    tokens = np.asarray(record["tokens"])
    tokenizer = load_tokenizer(run.base)
    labelled = run.objective.generic_targets or run.objective.needs_reinforced
    labels = _passage_labels(run, record) if labelled else np.full(len(tokens), -1)
    anchored = np.zeros(len(tokens), bool)
    if run.anchored:
        translator = Translator(read_dictionary(run), tokenizer, match=config.anchors.match)
        for start, length, _ in translator.translate(tokens, block_rng(0, 0)).spans:
            anchored[start : start + length] = True
    pieces = tokenizer.convert_ids_to_tokens
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


def _passage_labels(run: Run, record: dict[str, Any]) -> np.ndarray:
    """Return the generic labels of one block, int32 [S], from the training step's own label function."""
    base = load_base(run)
    batch = collate([record], [read_summary(run.blocks)], row_shards(run.mesh))
    step = make_label_step(
        make_forward(base.module), label_objective(run), StepOptions(tile=run.config.targets.tile), run.mesh
    )
    reinforced = load_reinforced(run, base) if run.objective.needs_reinforced else None
    return fetch(step(Frozen(base.params, reinforced), put_rows(batch, run.mesh)))[0]


def _write(run: Run, name: str, value: dict[str, Any]) -> None:
    if jax.process_index() == 0:
        write_json(run.evals / f"{name}.json", value)


STAGE = Stage(
    "eval",
    needs,
    lambda run, _: evaluate(run),
    lambda run: [run.evals / f"{name}.json" for name in ("summary", "completions", "passage", "questions")],
)
