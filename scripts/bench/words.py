"""Options of a run that bench_step.py accepts, and its own flags that replace some others."""

from collections.abc import Collection, Sequence

from jaxforget.config import Config, config_from, options
from jaxforget.errors import UserError

# Options that our side reads (a test compares the two). Any other option would be accepted and change nothing.
HONOURED = (
    "model.dtype",
    "model.remat",
    "model.attention",
    "targets.alpha",
    "method",
    "targets.tile",
    "forget.accumulate",
    "forget.learning_rate",
    "forget.warmup_steps",
    "forget.b1",
    "forget.b2",
    "forget.eps",
    "forget.weight_decay",
    "forget.clip_norm",
    "forget.moment_dtype",
    "mesh.data",
    "mesh.fsdp",
    "mesh.tensor",
)
INSTEAD = {
    "forget.batch": "give --blocks",
    "blocks.length": "give --length",
    "targets.cache": "give --side cached",
    "model.folder": "give --layers, --width, --inner, --heads and --vocabulary: the weights are random",
}


def read_words(own: Sequence[str], words: Sequence[str], sides: Collection[str]) -> Config:
    """Return the configuration of the bench's `own` key=value words and the user's `words`.

    Raises:
      UserError: a word is not an option, or not one that the bench accepts, or one of `sides` cannot compute the step.
    """
    known = {name for name, _ in options()}
    for word in words:
        key = word.partition("=")[0]
        if key in HONOURED:
            continue
        if key not in known:
            config_from({}, [word])  # reports the misspelt name
        remedy = INSTEAD.get(key, f"leave it out; those it takes are {', '.join(HONOURED)}")
        raise UserError(f"{key}: the bench does not take this option; {remedy}")
    run = config_from({}, [*own, *words])
    if run.method != "whp" and set(sides) != {"ours"}:
        raise UserError(f"method={run.method}: sides torch and cached train towards labels; add --side ours")
    for key, value in (("warmup_steps", run.forget.warmup_steps), ("clip_norm", run.forget.clip_norm)):
        if value and "torch" in sides:
            raise UserError(f"forget.{key}: side torch does not have it; add --side ours --side cached")
    return run
