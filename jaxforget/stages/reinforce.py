"""Stage `reinforce`: trains base further on the text to forget."""

from functools import partial

from jaxforget.config import result_options
from jaxforget.stages.card import plain_card, what_trains
from jaxforget.stages.fit import batches_from, configured_training, fit, load_student, save
from jaxforget.stages.frozen_models import load_base
from jaxforget.stages.prepare import SOURCE
from jaxforget.stages.run import Run
from jaxforget.stages.stage import Needs, Stage
from jaxforget.train.types import Frozen


def needs(run: Run) -> Needs:
    """Return the inputs: the text as blocks and the base model, or the reinforced model that is given.

    The stage that cut the blocks must be finished, but it is no input as a whole: the reinforced model reads the
    original text, so another dictionary changes nothing.
    """
    config = run.config
    if config.model.reinforced is not None:
        return Needs(models={"model.reinforced": run.reinforced}, unused=result_options(config, "reinforce"))
    lora = config.reinforce.weights == "lora"
    return Needs(
        after=("text",) if run.reinforces_first else ("prepare",),
        brings=("text",) if run.reinforces_first else (),
        texts={"corpus.path": run.target},
        tokenizers={"tokenizer": run.base},
        models={"model.folder": run.base},
        # If every parameter trains, the trained model does not depend on the form in which it is stored afterwards.
        unused=SOURCE if lora else (*SOURCE, "lora", "model.base", "reinforce.weights"),
    )


def reinforce(run: Run, fingerprint: str) -> None:
    """Train base further on the target by next-token loss; write reinforced/.

    Args:
      run: the run.
      fingerprint: digest of the stage's inputs; checkpoints with another one are discarded.
    """
    config = run.config
    if config.model.reinforced is not None:
        run.say(f"  taken from {config.model.reinforced}")
        return
    weights = "lora" if config.reinforce.weights == "lora" else "full"
    # An adapter trains over the frozen base; a student whose every parameter trains needs no other model.
    frozen = Frozen(base=None if weights == "full" else load_base(run).params)
    student = load_student(run, weights)
    batches = partial(batches_from, run, batch=config.reinforce.batch, blocks=run.reinforce_blocks)
    params, step = fit(run, configured_training(run, "reinforce", fingerprint, student, frozen, batches))
    what = f"base trained {step} steps further on a text: {what_trains(config, 'reinforce')}"
    save(run, run.reinforced, student, params, plain_card(what, config.model.folder), weights)


STAGE = Stage("reinforce", needs, reinforce, lambda run: [run.reinforced / "config.json"], trains=True, keeps=True)
