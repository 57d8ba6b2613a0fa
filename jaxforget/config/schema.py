"""The schema of a run: every option once, with its default, range, help text, and what it affects.

`result` options enter the fingerprints of the stages that they matter to, `layout` and `place` options do not; inputs
enter by content. The help of a stage lists all options that matter to it.
"""

import dataclasses
from collections.abc import Iterator

from jaxforget.config.option import (
    ADAPTED,
    ASKING,
    CUT,
    FORGET,
    MODELS,
    MOST_ROWS,
    OWN,
    RETAINED,
    SUITES,
    TEXTS,
    TRAINING,
    WATCHED,
    layout,
    place,
    result,
)
from jaxforget.config.training import ForgetOptions, IluOptions, LoraOptions, ReinforceOptions, UndoOptions


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The models."""

    folder: str | None = place(
        None,
        ("prepare", *MODELS, "export"),
        "model",
        "the base model: a Hugging Face folder, a hub id or a gs:// address",
        essential=True,
    )
    control: str | None = place(
        None,
        ("forget", "eval", "suites"),
        "model",
        "a model that never read the text, shown beside the others; null where there is none",
    )
    reinforced: str | None = place(
        None, ("anchors", *ADAPTED), "model", "an existing reinforced model; null trains one"
    )
    dtype: str = result("bfloat16", MODELS, "dtype of activations and of frozen weights", ("bfloat16", "float32"))
    base: str = result(
        "full",
        MODELS,
        "how the frozen base's dense layers are held: in model.dtype, or as int8 with one scale per channel",
        ("full", "int8"),
    )
    remat: str = layout(
        "full",
        TRAINING,
        "what the backward pass of a layer recomputes: all of it (full), its feed-forward part (mlp), everything but "
        "matrix products and attention's result (dots), or nothing (none)",
        ("full", "mlp", "dots", "none"),
    )
    attention: str = layout(
        "auto",
        MODELS,
        "auto uses splash attention on TPUs from v4 on and cuDNN on NVIDIA GPUs (bfloat16, heads of supported width), "
        "and plain attention elsewhere; plain uses plain attention everywhere",
        ("auto", "plain"),
    )


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """The text to forget."""

    path: str | None = place(
        None,
        (*TEXTS, "suites"),
        "text",
        "a .txt, .md or .jsonl file, a folder of such files, a .json file of records, or tfds:NAME",
        essential=True,
    )
    field: str = result("text", TEXTS, "the field of a record that holds the text, or two, as question,answer")
    split: str = result("train", TEXTS, "the split of a tensorflow-datasets data set")
    template: str = result("plain", CUT, "the form of questions: plain, or the chat template", ("plain", "chat"))
    alternates: str | None = place(None, ("prepare",), "file", "method dpo: other answers, one a line, drawn at random")


@dataclasses.dataclass(frozen=True)
class RetainOptions:
    """Text to keep and the loss on it, which retain.loss chooses. The paper has none."""

    path: str | None = place(None, RETAINED, "text", "text to keep, named as corpus.path", essential=True)
    field: str = result("text", RETAINED, "as corpus.field")
    split: str = result("train", RETAINED, "as corpus.split")
    weight: float = result(0.0, FORGET, "weight of the retain rows' mean loss; 0 = no retain term", least=0)
    rows: int = result(0, FORGET, "retain blocks added to the batch of each step", least=0, most=MOST_ROWS)
    loss: str = result(
        "kl",
        FORGET,
        "loss of the retain rows: KL divergence from base (kl), cross-entropy of the text (nll), or, for method rmu, "
        "distance of hidden states from base's (states)",
        ("kl", "nll", "states"),
    )


@dataclasses.dataclass(frozen=True)
class AnchorOptions:
    """The anchor dictionary (WHP section 2.2)."""

    path: str | None = place(
        None,
        OWN,
        "file",
        'a JSON dictionary {"anchor": ["generic", ...]}; null lets anchors.extractor find one in the text',
        essential=True,
    )
    extractor: str = result(
        "models",
        OWN,
        "how anchors are found where anchors.path is null: by counts and by what reinforcing raised (models), by "
        "counts alone (statistics), by a language model behind endpoint.* (endpoint) or loaded from anchors.model "
        "(local), or not at all (none)",
        ("models", "statistics", "endpoint", "local", "none"),
    )
    language: str = result("en", OWN, "language of the text; counterparts are English")
    min_count: int = result(3, OWN, "occurrences that a found anchor needs", above=0)
    most: int = result(2000, OWN, "largest number of anchors that are found", above=0)
    counterparts: int = result(3, OWN, "generic counterparts of a found anchor", above=0)
    sample: int = result(262144, OWN, "tokens of the text that both models read to find anchors", above=0)
    calls: int = result(100, OWN, "passages that a language model is asked about (the paper: 380)", above=0)
    model: str | None = place(None, OWN, "model", "chat model of extractor local, named as model.folder")
    answer_tokens: int = result(1024, OWN, "new tokens of an answer of extractor local", above=0)
    match: str = result(
        "first",
        ("prepare",),
        "which of several matching keys is translated: the first in the dictionary (released script) or the longest",
        ("first", "longest"),
    )
    draw: str = result(
        "per_variant",
        ("prepare",),
        "whether the variants of a key, after a space and after a newline, draw a translation each (released script) "
        "or one for both",
        ("per_variant", "per_key"),
    )
    filter: bool = result(True, RETAINED, "drop possessives and keys made of other keys, as the paper does")


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """Blocks of tokens that the text is cut into."""

    length: int = result(512, CUT, "tokens in a block", least=2, most=MOST_ROWS, essential=True)
    mode: str = result(
        "document",
        CUT,
        "how a document is cut: in one pass with its tail kept (document), or as the released script does (paper)",
        ("document", "paper"),
    )
    holdout: float = result(0.05, CUT, "fraction of blocks held out for validation", least=0, below=1)


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """Equation 1 and how its labels are used."""

    alpha: float = result(5.0, FORGET, "strength of equation 1", least=0)
    suppress: str = result(
        "seen",
        FORGET,
        "tokens that no generic target names: first tokens of the translations read so far in the block (seen, as in "
        "the paper), or those of all anchors, too (all)",
        ("seen", "all"),
    )
    cache: bool = layout(False, FORGET, "compute every label once beforehand; bit-equal to labels computed in the step")
    tile: int = layout(1024, (*TRAINING, "eval"), "tokens per device whose logits exist at a time", above=0)


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """Measures during unlearning, and evaluations after it."""

    every: int = result(20, FORGET, "steps of unlearning between evaluations; 0 evaluates at both ends only", least=0)
    probes: str | None = place(
        None, WATCHED, "file", 'JSON {"familiarity": [{"prompt", "answer"}], "retained": [...]}', essential=True
    )
    heldout: str | None = place(
        None,
        WATCHED,
        "text",
        "general text for perplexity, named as corpus.path; read with corpus.field and, of a data set, split train",
        essential=True,
    )
    heldout_blocks: int = result(256, WATCHED, "largest number of its blocks", above=0)
    prompts: str | None = place(
        None, WATCHED, "file", 'JSON {"dynamics": [prompt], "completions": [prompt]}', essential=True
    )
    completion_tokens: int = result(48, ("eval",), "new tokens of a completion", above=0)
    batch: int = layout(32, WATCHED, "rows scored at a time", above=0, most=MOST_ROWS)
    choices: str | None = place(
        None,
        (*WATCHED, *SUITES),
        "file",
        'multiple choice: a file of {"context", "choices", "answer"}, or a folder of such .jsonl files',
    )
    tfds: str | None = place(
        None, SUITES, "folder", "suite benchmarks: data folder of tensorflow-datasets, in array_record form"
    )
    benchmarks: str = result(
        "arc_challenge,arc_easy,boolq,hellaswag,openbookqa,piqa,winogrande",
        SUITES,
        "suite benchmarks: names separated by commas",
    )
    benchmark_documents: int | None = result(None, SUITES, "documents of each benchmark; null takes all", above=0)
    tasks: str | None = result(None, SUITES, "suite harness: tasks of lm-evaluation-harness, separated by commas")
    tasks_folder: str | None = place(
        None, SUITES, "folder", "suite harness: a folder with further tasks, described in YAML"
    )
    muse: str | None = place(None, SUITES, "folder", "suite muse: the folder of the benchmark's files")
    auc_control: float | None = result(
        None, SUITES, "suite muse: AUC that privleak is relative to; null takes model.control's", above=0
    )
    tofu: str | None = place(
        None, SUITES, "folder", "suite tofu: the folder of the benchmark's four files, .json as published, or .jsonl"
    )
    tofu_template: str = result("[INST] {question} [/INST]", SUITES, "suite tofu: the text before an answer")
    nonmembers: str | None = place(
        None,
        SUITES,
        "text",
        "suite membership: text like the target that no model read; named and read as evals.heldout",
    )
    passages: int = result(200, SUITES, "suites memorization and membership: passages of each text at most", least=2)
    completion_prompts: str | None = place(
        None,
        SUITES,
        "file",
        'suite completion: records {"prompt", "references", "subtlety"}; null makes them from the target',
    )
    completion_count: int = result(300, SUITES, "suite completion: prompts made at most", above=0)
    completion_temperature: float = result(
        0.0, SUITES, "suite completion: sampling temperature; 0 takes the most likely token", least=0
    )
    prompt_maker: str = result(
        "offline",
        SUITES,
        "suite completion: prompts are cut from the text (offline) or written by a language model (endpoint)",
        ("offline", "endpoint"),
    )
    grader: str = result(
        "offline",
        SUITES,
        "suite completion: completions are graded by rules (offline) or by a language model (endpoint)",
        ("offline", "endpoint"),
    )
    attacks: str | None = place(
        None,
        SUITES,
        "file",
        'suite prompting: JSON {"phrasings": {NAME: [probe]}, "leading": [text], "prompt_only": [text]}',
    )
    relearn_steps: int = result(24, SUITES, "suite relearning: steps of training", above=0)
    relearn_batch: int = result(16, SUITES, "suite relearning: blocks in a step", above=0, most=MOST_ROWS)
    relearn_rate: float | None = result(
        None, SUITES, "suite relearning: learning rate; null takes reinforce.learning_rate", above=0, most=1
    )
    compare: dict[str, str] = place(
        {},
        ("eval", "suites"),
        "model",
        "further models in the tables, as name: folder; on the command line evals.compare.NAME=FOLDER",
    )
    forgotten: dict[str, str] = place(
        {},
        ("eval", "suites"),
        "folder",
        "earlier runs whose texts must stay forgotten, as name: run; their questions and texts stay in the tables",
    )


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Checkpoints, from which an interrupted stage resumes."""

    every: int = layout(20, TRAINING, "steps between checkpoints", above=0)
    keep: int = layout(2, TRAINING, "checkpoints that are kept, besides the best", above=0)


@dataclasses.dataclass(frozen=True)
class LogOptions:
    """Destinations of metrics besides metrics.jsonl and TensorBoard."""

    wandb: str | None = layout(
        None, TRAINING, "also send metrics to this project of Weights & Biases (extra: wandb); null sends nothing"
    )


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """The mesh of devices; one size may be -1, which stands for all remaining devices."""

    data: int = layout(1, MODELS, "copies of the weights")
    fsdp: int = layout(-1, MODELS, "devices that share the weights and the batch")
    tensor: int = layout(1, MODELS, "devices that share each layer")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """The exported folder."""

    dtype: str = result(
        "float32",
        OWN,
        "dtype of the weights; bfloat16 loses small updates",
        ("float32", "bfloat16", "float16"),
        essential=True,
    )
    shard_gigabytes: float = result(5.0, OWN, "largest size of a safetensors file, in units of 1e9 bytes", above=0)


@dataclasses.dataclass(frozen=True)
class EndpointOptions:
    """A language model behind an OpenAI-compatible chat endpoint; its key is read from OPENAI_API_KEY only."""

    base_url: str | None = result(
        None, ASKING, "address, as http://localhost:8000/v1; null takes OPENAI_BASE_URL, or OpenAI's"
    )
    model: str | None = result(None, ASKING, "name of the model; null takes OPENAI_MODEL")
    temperature: float | None = result(0.0, ASKING, "sampling temperature; null leaves it to the endpoint", least=0)
    max_tokens: int | None = result(None, ASKING, "tokens of an answer; null leaves it to the endpoint", above=0)
    concurrency: int = layout(8, ASKING, "questions in flight at a time", above=0)
    timeout: float = layout(120.0, ASKING, "seconds without an answer before a question fails", above=0)
    retries: int = layout(5, ASKING, "further attempts after a temporary failure", least=0)
    max_calls: int | None = layout(None, ASKING, "calls of one command, retries included; null sets no limit", above=0)
    max_cost: float | None = layout(
        None, ASKING, "dollars of one command by the prices below; null sets no limit", above=0
    )
    price_in: float | None = layout(None, ASKING, "dollars per million prompt tokens", least=0)
    price_out: float | None = layout(None, ASKING, "dollars per million answer tokens", least=0)


@dataclasses.dataclass(frozen=True)
class Config:
    """A run."""

    out: str | None = place(
        None, (*TEXTS, "forget", "undo", "eval", "export", "report"), "run", "the run's folder", essential=True
    )
    seed: int = result(0, (*TEXTS, "forget", "undo"), "seed of all random choices", least=0, most=2**32 - 1)
    method: str = result(
        "whp", FORGET, "the unlearning method: the paper's is whp, whp_flat is recommended", essential=True
    )
    objective: dict[str, float] = result(
        {}, FORGET, "settings of the method, as name: value; on the command line objective.NAME=VALUE"
    )
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    corpus: CorpusOptions = dataclasses.field(default_factory=CorpusOptions)
    retain: RetainOptions = dataclasses.field(default_factory=RetainOptions)
    anchors: AnchorOptions = dataclasses.field(default_factory=AnchorOptions)
    blocks: BlockOptions = dataclasses.field(default_factory=BlockOptions)
    targets: TargetOptions = dataclasses.field(default_factory=TargetOptions)
    reinforce: ReinforceOptions = dataclasses.field(default_factory=ReinforceOptions)
    forget: ForgetOptions = dataclasses.field(default_factory=ForgetOptions)
    undo: UndoOptions = dataclasses.field(default_factory=UndoOptions)
    ilu: IluOptions = dataclasses.field(default_factory=IluOptions)
    lora: LoraOptions = dataclasses.field(default_factory=LoraOptions)
    evals: EvalOptions = dataclasses.field(default_factory=EvalOptions)
    checkpoints: CheckpointOptions = dataclasses.field(default_factory=CheckpointOptions)
    log: LogOptions = dataclasses.field(default_factory=LogOptions)
    mesh: MeshOptions = dataclasses.field(default_factory=MeshOptions)
    export: ExportOptions = dataclasses.field(default_factory=ExportOptions)
    endpoint: EndpointOptions = dataclasses.field(default_factory=EndpointOptions)


# Names of models that every run's tables may have; a further model needs another name.
RESERVED_NAMES = ("base", "reinforced", "unlearned", "control")
SECTIONS = tuple(field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type))


def options() -> Iterator[tuple[str, dataclasses.Field]]:
    """Yield every option as ("forget.batch", its dataclass field), in the order of the schema."""
    for field in dataclasses.fields(Config):
        if field.name in SECTIONS:
            for inner in dataclasses.fields(field.type):
                yield f"{field.name}.{inner.name}", inner
        else:
            yield field.name, field
