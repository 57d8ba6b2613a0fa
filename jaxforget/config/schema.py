"""The schema of a run: every option, its default, its help and its range, once."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any


def _option(default: Any, description: str, choices: Sequence[str] = (), **range_or_path: Any) -> Any:
    """A field; `above`, `least` and `below` bound a number, `path` marks a place on disk."""
    metadata = {"help": description, "choices": tuple(choices), **range_or_path}
    factory = {"default_factory": type(default)} if isinstance(default, dict) else {"default": default}
    return dataclasses.field(metadata=metadata, **factory)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The models."""

    folder: str | None = _option(None, "base: a Hugging Face folder, hub id or gs:// path", path=True)
    control: str | None = _option(
        None, "a model that never read the target, where there is one; shown beside the others", path=True
    )
    reinforced: str | None = _option(None, "an existing reinforced model; null trains one", path=True)
    dtype: str = _option("bfloat16", "of activations, and of the frozen models' weights", ("bfloat16", "float32"))
    base: str = _option(
        "full",
        "base's dense layers, as held while frozen: in model.dtype, or int8 with a scale a channel",
        ("full", "int8"),
    )
    remat: str = _option(
        "full",
        "what a layer's backward pass recomputes: full, all of it; mlp, its feed-forward part; dots, all but products "
        "and attention's result; none, nothing",
        ("full", "mlp", "dots", "none"),
    )
    attention: str = _option(
        "auto",
        "splash attention on TPUs (v4 and newer; bfloat16, heads 64, 128 or 256 wide), plain elsewhere; or plain "
        "everywhere",
        ("auto", "plain"),
    )


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """The text to forget."""

    path: str | None = _option(None, "a file or folder of .txt, .md, .jsonl, or tfds:NAME", path=True)
    field: str = _option("text", "the field of a .jsonl line or of a dataset's example that holds the text")
    split: str = _option("train", "of a tensorflow-datasets corpus")


@dataclasses.dataclass(frozen=True)
class RetainOptions:
    """Text to keep: on it the student is held to base's own distribution. The paper has none."""

    path: str | None = _option(None, "as corpus.path; text that is not the target", path=True)
    field: str = _option("text", "as corpus.field")
    split: str = _option("train", "as corpus.split")
    weight: float = _option(
        0.0, "of the retain rows' mean KL beside the forget rows' mean loss; 0 = no retain term", least=0
    )
    rows: int = _option(0, "retain blocks added to each step's batch", least=0)


@dataclasses.dataclass(frozen=True)
class AnchorOptions:
    """The anchor dictionary (WHP section 2.2)."""

    path: str | None = _option(
        None,
        'a JSON dictionary {"anchor": ["generic", ...]}; null: anchors.extractor finds one in the text',
        path=True,
    )
    extractor: str = _option(
        "models",
        "where none is given: counts and what reinforcing raised, counts alone, a language model behind endpoint.* or "
        "loaded from anchors.model, or none at all (to train base only)",
        ("models", "statistics", "endpoint", "local", "none"),
    )
    language: str = _option("en", "of the text, for the frequencies that it is set against; counterparts are English")
    min_count: int = _option(3, "occurrences asked of an anchor that is found", above=0)
    most: int = _option(2000, "anchors found at most", above=0)
    counterparts: int = _option(3, "generic counterparts of an anchor that is found", above=0)
    sample: int = _option(262144, "tokens of the text that both models read to find anchors", above=0)
    calls: int = _option(100, "passages that a language model is asked about (the paper: 380)", above=0)
    model: str | None = _option(None, "of extractor local: a chat model, as model.folder", path=True)
    answer_tokens: int = _option(1024, "of extractor local: new tokens of an answer", above=0)
    match: str = _option(
        "first", "among keys that match: first in the dictionary (paper) or the longest", ("first", "longest")
    )
    draw: str = _option(
        "per_variant",
        "each spacing variant draws its own translation (paper), or one for both",
        ("per_variant", "per_key"),
    )
    filter: bool = _option(True, "drop possessives and keys made of other keys, as the paper does")


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """How text becomes blocks of tokens."""

    length: int = _option(512, "tokens in a block", least=2)
    mode: str = _option(
        "document", "one pass per document with its tail kept, or the released script's way", ("document", "paper")
    )
    holdout: float = _option(0.05, "fraction of blocks held out for validation", least=0, below=1)


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """Equation 1 and how its labels are used."""

    alpha: float = _option(5.0, "strength of equation 1", least=0)
    kind: str = _option("argmax", "train towards equation 1's argmax (paper) or its softmax", ("argmax", "soft"))
    cache: bool = _option(False, "compute every label once, beforehand; equal to the in-step labels bit for bit")
    tile: int = _option(1024, "tokens per device whose logits exist at a time", above=0)


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """A training stage: steps, batch and AdamW."""

    epochs: float = _option(1.0, "passes over the blocks, where max_steps is null", above=0)
    max_steps: int | None = _option(None, "steps; null takes epochs", above=0)
    batch: int = _option(128, "blocks in a step, over all devices and accumulation", above=0)
    accumulate: int = _option(1, "microbatches that a step's batch is cut into", above=0)
    learning_rate: float = _option(1e-6, "at its peak; decays linearly to 0", above=0)
    warmup_steps: int = _option(0, "steps of linear warm-up from 0", least=0)
    b1: float = _option(0.9, "AdamW's decay of the first moment", least=0, below=1)
    b2: float = _option(0.98, "AdamW's decay of the second moment", least=0, below=1)
    eps: float = _option(1e-8, "AdamW's term against division by 0", above=0)
    weight_decay: float = _option(0.0, "AdamW's, times the learning rate", least=0)
    clip_norm: float | None = _option(
        None, "global gradient norm that a step is clipped to; null = not clipped", above=0
    )
    moment_dtype: str = _option("float32", "of AdamW's moments", ("float32", "bfloat16"))


@dataclasses.dataclass(frozen=True)
class ReinforceOptions(TrainOptions):
    """Training base further on the target."""

    weights: str = _option(
        "full",
        "what trains: every parameter, or a LoRA adapter; int8-delta trains all and is then held as int8 over base",
        ("full", "lora", "int8-delta"),
    )

    epochs: float = _option(3.0, "passes over the blocks, where max_steps is null", above=0)
    learning_rate: float = _option(3e-6, "at its peak; decays linearly to 0", above=0)


@dataclasses.dataclass(frozen=True)
class ForgetOptions(TrainOptions):
    """Unlearning: base towards the generic labels."""

    weights: str = _option("full", "what trains: every parameter, or a LoRA adapter over base", ("full", "lora"))

    epochs: float = _option(2.0, "passes over the blocks, where max_steps is null", above=0)
    select: str = _option(
        "last", "the checkpoint that becomes the result", ("last", "familiarity", "retained", "perplexity")
    )


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """The adapters of the stages whose weights are lora: a product of two thin matrices beside every dense layer."""

    rank: int = _option(16, "columns of the first matrix, rows of the second", above=0)
    alpha: float = _option(32.0, "the product counts alpha / rank times", above=0)


@dataclasses.dataclass(frozen=True)
class EvalOptions:
    """What is measured while the model forgets, and after."""

    every: int = _option(20, "steps of unlearning between evaluations; 0 = at the ends only", least=0)
    probes: str | None = _option(None, 'JSON {"familiarity": [{"prompt", "answer"}], "retained": [...]}', path=True)
    heldout: str | None = _option(None, "general text for perplexity, as corpus.path", path=True)
    heldout_blocks: int = _option(256, "blocks of it at most", above=0)
    prompts: str | None = _option(None, 'JSON {"dynamics": [prompt], "completions": [prompt]}', path=True)
    completion_tokens: int = _option(48, "new tokens of a completion", above=0)
    batch: int = _option(32, "rows scored at a time", above=0)
    choices: str | None = _option(None, 'suite multiple_choice: .jsonl of {"context", "choices", "answer"}', path=True)
    tfds: str | None = _option(
        None, "suite benchmarks: the data folder of tensorflow-datasets, prepared in array_record form", path=True
    )
    benchmarks: str = _option(
        "arc_challenge,arc_easy,boolq,hellaswag,openbookqa,piqa,winogrande", "which of them, separated by commas"
    )
    benchmark_documents: int | None = _option(None, "of each benchmark or task at most; null takes all", above=0)
    tasks: str | None = _option(None, "suite harness: tasks of lm-evaluation-harness, separated by commas")
    tasks_folder: str | None = _option(None, "where further tasks of it are described in YAML", path=True)
    muse: str | None = _option(None, "suite muse: the folder of the benchmark's files", path=True)
    auc_control: float | None = _option(
        None, "what MUSE's privleak is read against, an AUC; null takes model.control's", above=0
    )
    tofu: str | None = _option(None, "suite tofu: the folder of the benchmark's four .jsonl files", path=True)
    tofu_template: str = _option("[INST] {question} [/INST]", "what stands before an answer of TOFU")
    holdout: str | None = _option(
        None, "suite membership: text of the target's kind that no model read, as corpus.path", path=True
    )
    passages: int = _option(200, "suites memorization and membership: passages of each text at most", least=2)
    completion_prompts: str | None = _option(
        None,
        'suite completion: records {"prompt", "references", "subtlety"}; null makes them from the target',
        path=True,
    )
    completion_count: int = _option(300, "suite completion: prompts made at most", above=0)
    completion_temperature: float = _option(0.0, "suite completion: 0 takes the likeliest token", least=0)
    prompt_maker: str = _option("offline", "suite completion: who makes the prompts", ("offline", "endpoint"))
    grader: str = _option("offline", "suite completion: who grades", ("offline", "endpoint"))
    attacks: str | None = _option(
        None,
        'suite prompting: JSON {"phrasings": {NAME: [probe]}, "leading": [text], "prompt_only": [text]}',
        path=True,
    )
    relearn_steps: int = _option(24, "suite relearning: steps of training", above=0)
    relearn_batch: int = _option(16, "suite relearning: blocks in a step", above=0)
    relearn_rate: float | None = _option(
        None, "suite relearning: learning rate; null takes reinforce.learning_rate", above=0
    )
    compare: dict[str, str] = _option(
        {}, "further models in the tables, name: folder; on the command line evals.compare.NAME=FOLDER", path=True
    )


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """What survives a preemption."""

    every: int = _option(20, "steps between checkpoints", above=0)
    keep: int = _option(2, "checkpoints kept, the best beside them", above=0)


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """How devices are used; one size may be -1, the rest."""

    data: int = _option(1, "copies of the weights")
    fsdp: int = _option(-1, "devices that split weights and batch")
    tensor: int = _option(1, "devices that split a layer")


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """The folder for others."""

    dtype: str = _option(
        "float32", "of the weights; small updates do not survive bfloat16", ("float32", "bfloat16", "float16")
    )
    shard_gigabytes: float = _option(5.0, "largest safetensors file, 1e9 bytes", above=0)


@dataclasses.dataclass(frozen=True)
class EndpointOptions:
    """A language model behind an OpenAI-compatible chat endpoint; its key is taken from OPENAI_API_KEY only."""

    base_url: str | None = _option(
        None, "its address, as http://localhost:8000/v1; null takes OPENAI_BASE_URL, or OpenAI's"
    )
    model: str | None = _option(None, "the model's name there; null takes OPENAI_MODEL")
    temperature: float | None = _option(0.0, "of its answers; null leaves it to the endpoint", least=0)
    max_tokens: int | None = _option(None, "of an answer; null leaves it to the endpoint", above=0)
    concurrency: int = _option(8, "questions under way at a time", above=0)
    timeout: float = _option(120.0, "seconds that it may stay silent", above=0)
    retries: int = _option(5, "further tries where a fault may pass", least=0)
    max_calls: int | None = _option(None, "calls of one command, further tries counted; null = no limit", above=0)
    max_cost: float | None = _option(None, "dollars of one command, by the prices below; null = no limit", above=0)
    price_in: float | None = _option(
        None, "dollars per million tokens of prompt, for the line that says the cost", least=0
    )
    price_out: float | None = _option(None, "dollars per million tokens of answer", least=0)


@dataclasses.dataclass(frozen=True)
class Config:
    """A run."""

    out: str | None = _option(None, "the run's folder", path=True)
    seed: int = _option(0, "of block draws, order and held-out choice", least=0, below=2**32)
    model: ModelOptions = dataclasses.field(default_factory=ModelOptions)
    corpus: CorpusOptions = dataclasses.field(default_factory=CorpusOptions)
    retain: RetainOptions = dataclasses.field(default_factory=RetainOptions)
    anchors: AnchorOptions = dataclasses.field(default_factory=AnchorOptions)
    blocks: BlockOptions = dataclasses.field(default_factory=BlockOptions)
    targets: TargetOptions = dataclasses.field(default_factory=TargetOptions)
    reinforce: ReinforceOptions = dataclasses.field(default_factory=ReinforceOptions)
    forget: ForgetOptions = dataclasses.field(default_factory=ForgetOptions)
    lora: LoraOptions = dataclasses.field(default_factory=LoraOptions)
    evals: EvalOptions = dataclasses.field(default_factory=EvalOptions)
    checkpoints: CheckpointOptions = dataclasses.field(default_factory=CheckpointOptions)
    mesh: MeshOptions = dataclasses.field(default_factory=MeshOptions)
    export: ExportOptions = dataclasses.field(default_factory=ExportOptions)
    endpoint: EndpointOptions = dataclasses.field(default_factory=EndpointOptions)


# Rows of the tables that every run has; a further model needs another name.
RESERVED_NAMES = ("base", "reinforced", "unlearned", "control")
SECTIONS = tuple(field.name for field in dataclasses.fields(Config) if dataclasses.is_dataclass(field.type))


def options() -> Iterator[tuple[str, dataclasses.Field]]:
    """Every option as ("forget.batch", its dataclass field), in the order of the schema."""
    for field in dataclasses.fields(Config):
        if field.name in SECTIONS:
            for inner in dataclasses.fields(field.type):
                yield f"{field.name}.{inner.name}", inner
        else:
            yield field.name, field
